"""Pictures of surfaces: a ball's silhouette, what hides what, and turning the table as turning the thing."""

import io
import math

import numpy as np
from PIL import Image

from diffusion.data import solids
from diffusion.experiments.evaluation import surface_pictures as pictures

BALL = solids.superellipsoid((0.6, 0.6, 0.6), 1.0, 1.0).distance(solids.grid(16)).reshape(16, 16, 16, 1)
ink = lambda tile: tile.min(axis=2) < 250


def test_the_silhouette_of_a_ball_is_a_disc():
    seen = ink(pictures.level_set(BALL, 0.7, side=60))
    radius = 0.6 * 60 / (2 * pictures.EXTENT)
    assert abs(seen.sum() - math.pi * radius**2) < 0.06 * math.pi * radius**2
    assert (seen == seen[::-1]).mean() > 0.98 and (seen == seen[:, ::-1]).mean() > 0.98
    assert not ink(pictures.level_set(np.ones((4, 4, 4, 1)), 0.0, side=20)).any()


def test_the_nearer_point_hides_the_farther_and_far_ones_are_cut_off():
    ends = np.array([[0.5, 0, 0.5 * math.tan(pictures.ELEVATION)], [0, 0, 0], [9, 9, 9]])  # on the line to the eye
    near, both = (pictures.cloud(ends[:k], 0.0, side=40) for k in (1, 3))
    np.testing.assert_array_equal(near, both)
    assert 0 < ink(near).sum() < 40


def test_a_plane_has_the_colour_of_its_normal_at_each_depth():
    """A plane is linear, and so exact between the cells of the grid: one normal, and a depth that is a fraction."""
    side, grid = 24, solids.grid(16).reshape(16, 16, 16, 3)
    camera = pictures._camera(0.4)  # rows to the right, up and towards the eye
    normal = np.array([0.3, 0.4, math.sqrt(0.75)])
    found = pictures.level_set((grid @ (normal @ camera))[..., None], 0.4, side=side)
    line = ((np.arange(side) + 0.5) / side * 2 - 1) * pictures.EXTENT
    across, down = np.meshgrid(line, line)
    depth = -(normal[0] * across - normal[1] * down) / normal[2]
    expected = pictures._shaded(np.broadcast_to(normal, (side, side, 3)), depth, pictures.plots.BLUE)
    near = np.hypot(across, down) < 0.6  # inside of the cube
    np.testing.assert_allclose(found[near], expected[near], atol=0.51)


def test_light_and_distance_by_hand():
    """Lit in full 0.45 + 0.65 of the colour, turned away 0.45; as far away as can be, halfway to the white paper."""
    normals = np.array([pictures.LIGHT, -pictures.LIGHT, -pictures.LIGHT])
    depth = np.array([0.9, 0.9, -0.9])
    np.testing.assert_allclose(pictures._shaded(normals, depth, "#000000"), [[0] * 3, [0] * 3, [127.5] * 3])
    found = pictures._shaded(normals[:2], depth[:2], "#c800ff")  # 200, 0 and 255, of which 280 is cut to 255
    np.testing.assert_allclose(found, [[220, 0, 255], [90, 0, 0.45 * 255]])


def test_turning_the_table_turns_the_thing():
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
    c, s = math.cos(0.8), math.sin(0.8)
    turned = points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])  # by +0.8 about z
    np.testing.assert_array_equal(pictures.cloud(points, 0.1), pictures.cloud(turned, 0.9))


def test_the_files_of_a_run(tmp_path, monkeypatch):
    for name, value in (("SIDE", 16), ("COLUMNS", 2), ("FRAMES", 3)):
        monkeypatch.setattr(pictures, name, value)
    balls = np.repeat(BALL[None], 3, axis=0)
    surface = lambda example, rng: np.zeros((4, 3))
    (tmp_path / "ply").mkdir()
    (tmp_path / "ply" / "00007.ply").write_text("of earlier samples")
    pictures_of = pictures.draw(balls, np.array([0, 1, 1]), ("one", "two"), surface, tmp_path)
    assert [path.name for path in pictures_of] == ["samples.png", "views.png", "turntable.gif", "ply"]
    assert sorted(path.name for path in (tmp_path / "ply").iterdir()) == ["00000.ply", "00001.ply", "00002.ply"]
    film = Image.open(io.BytesIO((tmp_path / "turntable.gif").read_bytes()))
    assert (getattr(film, "n_frames", 1), film.size) == (3, (3 * 16, 16))


def test_a_turntable_goes_once_around_without_end():
    """A ramp of 160 greys stays one in 64 colours, for Pillow does not dither the colours that it finds itself."""
    angles = []
    ramp = np.broadcast_to(np.arange(40, 200, dtype=np.uint8)[None, :, None], (160, 160, 3))

    def tile(angle):
        angles.append(angle)
        return ramp

    film = Image.open(io.BytesIO(pictures.turntable([tile, lambda angle: ramp, lambda angle: ramp], columns=2)))
    np.testing.assert_allclose(angles, 2 * np.pi * np.arange(20) / 20)
    assert film.size == (320, 320) and film.info["loop"] == 0 and film.info["duration"] * film.n_frames == 1800
    frame = np.asarray(film.convert("RGB")).astype(int)
    assert (frame[160:, 160:] == 255).all()  # no fourth one
    for corner in (frame[:160, :160], frame[:160, 160:], frame[160:, :160]):
        np.testing.assert_array_equal(corner, np.broadcast_to(corner[:1], corner.shape))
        assert (np.diff(corner[0, :, 0]) >= 0).all() and abs(corner - ramp).max() <= 8


def test_two_samples_of_a_class_turn_and_views_go_around_from_the_same_side(tmp_path, monkeypatch):
    drawn, turned = [], []
    monkeypatch.setattr(pictures, "COLUMNS", 4)
    monkeypatch.setattr(pictures, "_tile", lambda example, angle, label: (example, round(math.degrees(angle)), label))
    monkeypatch.setattr(pictures.plots, "mosaic", lambda blocks, names, columns, path: drawn.append((blocks, columns)))
    monkeypatch.setattr(pictures, "turntable", lambda tiles, columns: turned.append((tiles, columns)) or b"")
    pictures.draw(np.arange(5), np.array([0, 0, 0, 1, 1]), (), lambda example, rng: np.zeros((1, 3)), tmp_path)
    (samples, _), (views, columns) = drawn
    assert samples == [[[(k, -60, 0) for k in range(3)], [(k, -60, 1) for k in (3, 4)]]]
    assert views == [[[(first, angle, label) for angle in (-60, 30, 120, 210)] for first, label in ((0, 0), (3, 1))]]
    assert columns == [["0°", "90°", "180°", "270°"]]
    ((tiles, columns),) = turned
    assert columns == 4 and [tile(math.pi) for tile in tiles] == [(0, 180, 0), (1, 180, 0), (3, 180, 1), (4, 180, 1)]
    pictures.draw(np.arange(12), np.arange(12), (), lambda example, rng: np.zeros((1, 3)), tmp_path)
    assert (len(turned[1][0]), turned[1][1]) == (12, 8)


def test_a_last_row_of_a_turntable_is_filled_with_paper(monkeypatch):
    """Four tiles in three columns leave two places, and six leave none."""
    monkeypatch.setattr(pictures, "FRAMES", 1)
    for count, size, white in ((4, (12, 8), 2), (6, (12, 8), 0), (2, (12, 4), 1)):
        tiles = [lambda angle: np.full((4, 4, 3), 90, np.uint8)] * count
        film = Image.open(io.BytesIO(pictures.turntable(tiles, columns=3)))
        assert film.size == size and (np.asarray(film.convert("L")) > 250).sum() == 16 * white
