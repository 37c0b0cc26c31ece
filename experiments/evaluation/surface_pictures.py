"""Pictures of surfaces in space: point clouds as shaded balls, level sets of signed distances, and animations."""

import io
import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from diffusion.experiments.evaluation import plots
from diffusion.io import files, mesh_files

SIDE = 84  # pixels of a tile
EXTENT = 1.15  # coordinates beyond it, on either side, are cut off
RADIUS = 0.06  # radius of a point
ELEVATION = math.radians(25)
LIGHT = np.array([-0.45, 0.55, 0.7]) / np.linalg.norm([-0.45, 0.55, 0.7])  # right, up, towards the eye
STEPS = 32  # along a ray
COLUMNS = 6  # columns of samples of a class, and of views
FRAMES = 20  # frames of a turn
MILLISECONDS = 90  # duration of a frame
TURNING = 2  # samples of a class in the animation


def cloud(points: np.ndarray, angle: float, colour: str = plots.BLUE, side: int = SIDE) -> np.ndarray:
    """Points as shaded balls, seen from the angle of a turntable about the z axis.

    Args:
        points: the points, [N, 3], shown within [-1.15, 1.15].
        angle: the angle of the turntable, in radians.
        colour: the colour of the points, "#rrggbb".
        side: height and width in pixels.

    Returns:
        The picture, uint8 [side, side, 3].
    """
    fine = 2 * side  # halved at the end, which smooths the edges
    turned = np.asarray(points, np.float64) @ _camera(angle).T
    size = fine / (2 * EXTENT)
    reach = math.ceil(RADIUS * size)
    patch = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2), axis=-1).reshape(-1, 2)
    centre = np.stack([fine / 2 + turned[:, 0] * size, fine / 2 - turned[:, 1] * size], axis=1)
    pixel = np.round(centre)[:, None].astype(int) + patch
    away = (pixel - centre[:, None]) * (1, -1) / (RADIUS * size)
    depth = 1 - np.sum(away**2, axis=2)
    shown = (depth > 0) & ((pixel >= 0) & (pixel < fine)).all(axis=2)
    normal = np.concatenate([away, np.sqrt(np.maximum(depth, 0))[..., None]], axis=2)
    height = turned[:, None, 2] + RADIUS * normal[..., 2]
    colours = _shaded(normal, height, colour)
    flat = pixel[..., 1] * fine + pixel[..., 0]
    order = np.argsort(height[shown], kind="stable")  # the nearest pixel is painted last
    canvas = np.full((fine * fine, 3), 255.0)
    canvas[flat[shown][order]] = colours[shown][order]
    return _halved(canvas.reshape(fine, fine, 3))


def level_set(distance: np.ndarray, angle: float, colour: str = plots.BLUE, side: int = SIDE) -> np.ndarray:
    """The shaded surface on which a function on a grid is zero, in the view of `cloud`.

    Args:
        distance: the signed distance [S, S, S, 1] at the centres of the cells of [-1, 1]^3, negative inside; it is
            interpolated linearly.
        angle, colour, side: the angle, the colour and the size in pixels, as in `cloud`.

    Returns:
        The picture, uint8 [side, side, 3].
    """
    from scipy.ndimage import map_coordinates  # imported here: it takes long

    values = np.asarray(distance, np.float64)[..., 0]
    camera = _camera(angle)
    line = ((np.arange(side) + 0.5) / side * 2 - 1) * EXTENT
    across = np.stack(np.meshgrid(line, -line, indexing="xy"), axis=-1).reshape(-1, 2)
    depths = np.linspace(math.sqrt(3), -math.sqrt(3), STEPS)
    at = lambda places: map_coordinates(values, ((places + 1) / 2 * len(values) - 0.5).T, order=1, mode="nearest")
    inside_cube = lambda places: (np.abs(places) <= 1).all(axis=1)

    def look(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = np.concatenate([across, depth[:, None]], axis=1) @ camera
        return places, np.where(inside_cube(places), at(places), 1.0)

    along = np.stack([look(np.full(len(across), depth))[1] for depth in depths], axis=1)
    hit = np.any(along < 0, axis=1)
    first = np.argmax(along < 0, axis=1)
    rows = np.arange(len(across))
    before, behind = along[rows, np.maximum(first - 1, 0)], along[rows, first]
    share = np.where(hit & (first > 0), before / np.where(before == behind, 1, before - behind), 0)
    depth = depths[np.maximum(first - 1, 0)] + share * (depths[1] - depths[0])
    places = look(depth)[0]
    slope = np.stack([at(places + step) - at(places - step) for step in np.eye(3) / len(values)], axis=1)
    normal = (slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-9)) @ camera.T
    canvas = np.where(hit[:, None], _shaded(normal, depth, colour), 255.0)
    return np.round(canvas).astype(np.uint8).reshape(side, side, 3)


def draw(
    samples: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    surface: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    folder: pathlib.Path,
) -> list[pathlib.Path]:
    """Draws samples of each class, a sample of each class from several sides, and an animation; writes .ply files.

    Args:
        samples: clouds [M, N, 3], or signed distances [M, S, S, S, 1].
        labels: the classes, int [M].
        names: the names of the classes; () for their numbers.
        surface: a function (example, generator) -> points [N, 3], as in `data.sources.solid_records.SurfaceRecords`.
        folder: the folder in which samples.png, views.png, turntable.gif and ply/NUMBER.ply are written.

    Returns:
        The files to look at.
    """
    shown = [np.flatnonzero(labels == label)[:COLUMNS] for label in np.unique(labels)]
    titles = [names[int(label)] if names else str(label) for label in np.unique(labels)]
    tile = lambda row, angle: _tile(samples[row], angle, int(labels[row]))
    start = math.radians(-60)
    plots.mosaic([[[tile(row, start) for row in rows] for rows in shown]], titles, [[]], folder / "samples.png")
    angles = start + 2 * math.pi * np.arange(COLUMNS) / COLUMNS
    views = [[tile(rows[0], angle) for angle in angles] for rows in shown]
    degrees = [f"{round(math.degrees(angle - start))}°" for angle in angles]
    plots.mosaic([views], titles, [degrees], folder / "views.png")
    few = [row for rows in shown for row in rows[:TURNING]]
    frames = turntable([lambda angle, row=row: tile(row, angle) for row in few], columns=min(8, len(few)))
    with files.atomic(folder / "turntable.gif") as file:
        file.write(frames)
    with files.whole_folder(folder / "ply") as clouds:  # in place of those of earlier samples
        for row in np.concatenate(shown):
            mesh_files.write_points(clouds / f"{row:05d}.ply", surface(samples[row], np.random.default_rng(int(row))))
    return [folder / "samples.png", folder / "views.png", folder / "turntable.gif", folder / "ply"]


def turntable(tiles: Sequence[Callable[[float], np.ndarray]], columns: int) -> bytes:
    """A GIF of objects on turntables.

    Args:
        tiles: functions from an angle in radians to a picture, uint8 [S, S, 3].
        columns: the number of columns of the animation.

    Returns:
        The bytes of the file, which plays in a loop.
    """
    from PIL import Image

    frames = []
    for angle in 2 * math.pi * np.arange(FRAMES) / FRAMES:
        pictures = [tile(float(angle)) for tile in tiles]
        pictures += [np.full_like(pictures[0], 255)] * (-len(pictures) % columns)
        rows = [np.concatenate(pictures[i : i + columns], axis=1) for i in range(0, len(pictures), columns)]
        frames.append(Image.fromarray(np.concatenate(rows)).quantize(64))
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0, optimize=True)
    return buffer.getvalue()


def _tile(example: np.ndarray, angle: float, label: int) -> np.ndarray:
    colour = plots.COLOURS[label % len(plots.COLOURS)]
    return (cloud if example.ndim == 2 else level_set)(example, angle, colour, SIDE)


def _camera(angle: float) -> np.ndarray:
    """Rows to the right, up and towards the eye, [3, 3]."""
    c, s = math.cos(angle), math.sin(angle)
    right = np.array([-s, c, 0.0])
    eye = np.array([math.cos(ELEVATION) * c, math.cos(ELEVATION) * s, math.sin(ELEVATION)])
    return np.stack([right, np.cross(eye, right), eye])


def _shaded(normal: np.ndarray, depth: np.ndarray, colour: str) -> np.ndarray:
    """The colour of a surface by its normal, paler where it is far away; [..., 3] in 0 .. 255."""
    base = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], float)
    light = 0.45 + 0.65 * np.maximum(normal @ LIGHT, 0)[..., None]
    near = 0.5 + 0.5 * np.clip((depth[..., None] + 0.9) / 1.8, 0, 1)
    return np.clip(255 + near * (np.clip(base * light, 0, 255) - 255), 0, 255)


def _halved(canvas: np.ndarray) -> np.ndarray:
    side = len(canvas) // 2
    return np.round(canvas.reshape(side, 2, side, 2, 3).mean(axis=(1, 3))).astype(np.uint8)
