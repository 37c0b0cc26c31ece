"""Draws `scenes` as pictures 64 x 64: signed distances to the edges of shapes, turned into smooth edges.

A signed distance is negative inside a shape; a pixel is covered by clip(1/2 - distance, 0, 1) of it.
"""

import colorsys
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffusion.data.shapes.scenes import POSITIONS, RELATIONS, Lot, Scene

SIDE = 64
"""Pixels of a picture's side."""
PALETTE = {
    "red": (214, 40, 40),
    "orange": (240, 125, 20),
    "yellow": (242, 200, 30),
    "green": (48, 155, 70),
    "cyan": (30, 185, 210),
    "blue": (40, 80, 210),
    "purple": (125, 55, 170),
    "pink": (240, 110, 175),
}
"""Red, green and blue of each colour, 0 to 255."""
PAPERS = ((250, 247, 240), (240, 244, 250), (243, 249, 241), (248, 242, 247))
"""Tints of the paper, of which a picture has one; captions do not name it."""
NIGHT = (20, 18, 36)
"""Colour behind neon."""
PLACES = (16.0, 32.0, 48.0)  # a step is a whole number of patches
"""Where centres stand along each side, in pixels."""
RADII = {"small": (6.0, 6.6), "medium": (9.3, 9.9), "large": (13.0, 13.6)}
"""Least and greatest radius of each size of one object, in pixels."""
RADIUS_OF_MANY = (6.0, 6.6)  # neighbours stand 16 pixels apart, and the widest shapes reach 1.2 radii
RADIUS_OF_TWO = (8.5, 9.9)
STROKE, GLOW = 2.2, 2.5  # pixels: the width of an outline, the reach of neon

Distance = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""(x right, y down, radius) -> pixels to the edge."""


def draw(scene: Scene, lot: Lot, more: Mapping[str, Distance] = MappingProxyType({})) -> np.ndarray:
    """Draws a scene; its tints and radii, the cells of several objects and the line of two are random.

    A scene that leaves other attributes open, as `scenes.parsed` may, is completed first by `scenes.completed`.
    Objects stand upright at nine places, so that a small transformer can learn the shapes themselves in half an hour.

    Args:
        scene: the scene to draw.
        lot: the draws.
        more: further shapes that the scene may name.

    Returns:
        uint8 [64, 64, 3].
    """
    distances = DISTANCES | dict(more)
    paper = NIGHT if scene.style == "neon" else lot.pick(PAPERS)
    canvas = np.broadcast_to(np.array(paper, np.float64), (SIDE, SIDE, 3)).copy()
    if scene.kind == "word":
        _write(canvas, scene.word, scene.colour, lot)
    for colour, shape, x, y, radius in _objects(scene, lot):
        paint(canvas, distances[shape], tint(colour, lot), (x, y), radius, scene.style)
    return rounded(canvas)


def tint(colour: str, lot: Lot) -> np.ndarray:
    """A random colour near one of `PALETTE`: red, green and blue, float64 [3]."""
    return np.array(PALETTE[colour]) + np.array([lot.between(-8, 8) for _ in range(3)])


def rounded(canvas: np.ndarray) -> np.ndarray:
    """The pixels of a canvas [..., 3], uint8."""
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)


def _objects(scene: Scene, lot: Lot) -> list[tuple[str, str, float, float, float]]:
    """(colour, shape, x, y, radius) of each object."""
    first, second = (scene.colour, scene.shape), (scene.second_colour, scene.second_shape)
    if scene.kind == "one":
        return [(*first, *_centre(tuple(POSITIONS).index(scene.position)), lot.between(*RADII[scene.size]))]
    if scene.kind == "several":
        radius = lot.between(*RADIUS_OF_MANY)
        free = list(range(len(POSITIONS)))
        cells = [free.pop(lot.pick(range(len(free)))) for _ in range(scene.count)]
        return [(*first, *_centre(cell), radius) for cell in cells]
    if scene.kind == "pair":
        line = lot.pick(range(3))
        upright = RELATIONS.index(scene.relation) >= 2
        ends = (line, 6 + line) if upright else (3 * line, 3 * line + 2)
        one, other = sorted(ends, reverse=scene.relation in ("right of", "below"))
        return [
            (*first, *_centre(one), lot.between(*RADIUS_OF_TWO)),
            (*second, *_centre(other), lot.between(*RADIUS_OF_TWO)),
        ]
    return []


def _centre(number: int) -> tuple[float, float]:
    """(x, y) of the centre of one of nine cells, counted in rows."""
    row, column = divmod(number, 3)
    return PLACES[column], PLACES[row]


def paint(
    canvas: np.ndarray, shape: Distance, tint: np.ndarray, centre: tuple[float, float], radius: float, style: str
) -> None:
    """Paints one shape on the canvas [64, 64, 3], in place."""
    reach = 2 * radius + 8  # what lies farther off does not change
    left, right, top, bottom = (int(np.clip(a + end, 0, SIDE)) for a in centre for end in (-reach, reach))
    canvas = canvas[top:bottom, left:right]
    x = np.arange(left, right) + 0.5 - centre[0]
    y = np.arange(top, bottom)[:, None] + 0.5 - centre[1]
    distance = shape(x, y, radius)
    if style != "plain":
        distance = np.abs(distance + STROKE / 2) - STROKE / 2
    cover = np.clip(0.5 - distance, 0, 1)
    if style == "neon":
        glow = 0.6 * np.exp(-np.maximum(distance, 0) / GLOW)
        canvas += glow[..., None] * (tint - canvas)
        tint = tint + 0.25 * (255 - tint)
    canvas += cover[..., None] * (tint - canvas)


def nearest_hue(colours: np.ndarray) -> np.ndarray:
    """The number in `PALETTE` of the colour whose hue is nearest, int [...].

    Args:
        colours: red, green and blue from 0 to 255, [..., 3]; greys, which have no hue, are as good as red.
    """
    red, green, blue = np.moveaxis(np.asarray(colours, np.float64), -1, 0)
    angle = np.arctan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)
    known = np.array([2 * math.pi * colorsys.rgb_to_hsv(*colour)[0] for colour in PALETTE.values()])
    turn = np.abs((angle[..., None] - known + math.pi) % (2 * math.pi) - math.pi)
    return turn.argmin(-1)


def _write(canvas: np.ndarray, word: str, colour: str, lot: Lot) -> None:
    """Writes a word on the canvas, in place, in Pillow's own bitmap letters of 6 x 11 pixels, twice as large."""
    font = ImageFont.load_default_imagefont()
    left, top, right, bottom = (int(side) for side in font.getbbox(word))
    small = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(small).text((-left, -top), word, fill=255, font=font)
    letters = np.asarray(small).repeat(2, 0).repeat(2, 1)[..., None] / 255.0
    height, width = letters.shape[:2]
    x = (SIDE - width) // 2
    y = int(lot.pick(PLACES)) - height // 2
    part = canvas[y : y + height, x : x + width]
    part += letters * (np.array(PALETTE[colour]) - part)


def _circle(x, y, radius):
    return np.hypot(x, y) - 0.95 * radius


def _square(x, y, radius):
    return np.maximum(np.abs(x), np.abs(y)) - 0.84 * radius


def _diamond(x, y, radius):
    wide = 0.85 * radius
    high = 1.15 * radius
    return (np.abs(x) / wide + np.abs(y) / high - 1) * wide * high / math.hypot(wide, high)


def _triangle(x, y, radius):
    y = y - 0.15 * radius
    return np.maximum(y - 0.72 * radius, 0.868 * np.abs(x) - 0.496 * y - 0.55 * radius)


def _cross(x, y, radius):
    x = np.abs(x)
    y = np.abs(y)
    long = radius
    short = 0.36 * radius
    return np.minimum(np.maximum(x - long, y - short), np.maximum(x - short, y - long))


def _moon(x, y, radius):
    x = x - 0.28 * radius  # centred in its cell
    return np.maximum(np.hypot(x, y) - 1.02 * radius, 0.82 * radius - np.hypot(x - 0.52 * radius, y + 0.2 * radius))


def _star(x, y, radius):
    """Five points: the angle is folded into half of one point, and there the edge is a line."""
    radius, inner = 1.15 * radius, 0.5 * radius
    angle = np.abs((np.arctan2(x, -y) + math.pi / 5) % (2 * math.pi / 5) - math.pi / 5)
    distance = np.hypot(x, y)
    along = distance * np.cos(angle)
    off = distance * np.sin(angle)
    corner = inner * math.cos(math.pi / 5), inner * math.sin(math.pi / 5)
    edge = corner[0] - radius, corner[1]
    return ((along - radius) * edge[1] - off * edge[0]) / math.hypot(*edge)


def _heart(x, y, radius):
    """Two round lobes over a right angle that points down."""
    unit = 1.4 * radius
    x = np.abs(x) / unit
    y = (0.75 * radius - y) / unit + 0.08
    lobe = np.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    half = np.maximum(x + y, 0) / 2
    inside = np.sqrt(np.minimum(x**2 + (y - 1) ** 2, (x - half) ** 2 + (y - half) ** 2)) * np.sign(x - y)
    return unit * np.where(y + x > 1, lobe, inside)


DISTANCES: dict[str, Distance] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "moon": _moon,
}
"""The signed distance of each shape, by its name."""
