"""The drawn shapes are the figures of geometry: area, extent and distance to the edge, and the paint on a pixel."""

import math
import pathlib

import numpy as np
import pytest
from PIL import Image

from diffusion.data import shapes
from diffusion.data.shapes import arrangements, drawing

GALLERY = pathlib.Path(__file__).parents[2] / "docs" / "gallery"
STEP = 0.005
ALONG = np.arange(-1.3 + STEP / 2, 1.3, STEP)


def lens(a, b, apart):
    """The area that two discs of radii a and b share, their centres `apart`."""
    first = a**2 * math.acos((apart**2 + a**2 - b**2) / (2 * apart * a))
    second = b**2 * math.acos((apart**2 + b**2 - a**2) / (2 * apart * b))
    kite = math.sqrt((a + b - apart) * (apart + a - b) * (apart - a + b) * (apart + a + b)) / 2
    return first + second - kite


# Of each figure of radius 1, x right and y down: its area, and its left, right, upper and lower end.
APEX = 0.15 - 0.55 / 0.496  # where the two sides of the triangle meet
HALF = (0.496 * 0.72 + 0.55) / 0.868  # half of its base, at 0.15 + 0.72
FIFTH = math.pi / 5
LOBE = 1.4 * math.sqrt(2) / 4  # the radius of the heart's two discs, on the sides of a square of diagonal 1.4
FIGURES = {
    "circle": (math.pi * 0.95**2, -0.95, 0.95, -0.95, 0.95),
    "square": (1.68**2, -0.84, 0.84, -0.84, 0.84),
    "diamond": (2 * 0.85 * 1.15, -0.85, 0.85, -1.15, 1.15),
    "triangle": (HALF * (0.87 - APEX), -HALF, HALF, APEX, 0.87),
    "cross": (2 * 2 * 0.72 - 0.72**2, -1, 1, -1, 1),
    "star": (5 * 1.15 * 0.5 * math.sin(FIFTH), *(1.15 * x for x in (-math.sin(2 * FIFTH), math.sin(2 * FIFTH))), -1.15,
             1.15 * math.cos(FIFTH)),
    "heart": (1.4**2 / 2 + math.pi * LOBE**2, -0.35 - LOBE, 0.35 + LOBE, 0.862 - 1.05 - LOBE, 0.862),
    "moon": (math.pi * 1.02**2 - lens(1.02, 0.82, math.hypot(0.52, 0.2)), -0.74, None, -1.02, None),
}  # fmt: skip


@pytest.mark.parametrize("shape", drawing.DISTANCES)
def test_a_shape_is_the_figure_of_geometry(shape):
    area, *ends = FIGURES[shape]
    inside = drawing.DISTANCES[shape](ALONG, ALONG[:, None], 1.0) < 0
    assert inside.sum() * STEP**2 == pytest.approx(area, rel=3e-3)
    across, down = (ALONG[inside.any(axis)] for axis in (0, 1))
    for seen, end in zip((across[0], across[-1], down[0], down[-1]), ends):
        assert end is None or seen == pytest.approx(end, abs=0.02 if shape in ("star", "triangle") else 2 * STEP)
    half = drawing.DISTANCES[shape](ALONG / 2, ALONG[:, None] / 2, 0.5) < 0
    np.testing.assert_array_equal(half, inside)  # the radius scales all of it


@pytest.mark.parametrize("shape", drawing.DISTANCES)
def test_distances_near_the_edge_are_in_pixels(shape):
    """By the length of the gradient, which is 1 except at corners, so that each edge is drawn equally soft."""
    distance = drawing.DISTANCES[shape](12 * ALONG, 12 * ALONG[:, None], 12.0)
    steepness = np.hypot(*np.gradient(distance, 12 * STEP))
    assert np.mean(np.abs(steepness[np.abs(distance) < 0.5] - 1) < 2e-3) > 0.9


def test_the_moon_is_a_disc_without_another_disc():
    """Discs of radii 1.02 and 0.82 about (0.28, 0) and (0.8, -0.2)."""
    x, y = ALONG, ALONG[:, None]
    expected = (np.hypot(x - 0.28, y) < 1.02) & ~(np.hypot(x - 0.8, y + 0.2) < 0.82)
    np.testing.assert_array_equal(drawing.DISTANCES["moon"](x, y, 1.0) < 0, expected)


def painted(style, distance, tint=(200.0, 100.0, 0.0), paper=100.0):
    """The colour of a pixel of grey paper at a distance from the edge of a shape."""
    canvas = np.full((64, 64, 3), paper)
    drawing.paint(canvas, lambda x, y, radius: distance + 0 * (x + y), np.array(tint), (32.0, 32.0), 5.0, style)
    return canvas[32, 32]


@pytest.mark.parametrize("distance, cover", [(-3.0, 1.0), (-0.25, 0.75), (0.0, 0.5), (0.25, 0.25), (0.75, 0.0)])
def test_a_pixel_at_the_edge_is_covered_in_part(distance, cover):
    np.testing.assert_allclose(painted("plain", distance), [100 + 100 * cover, 100, 100 - 100 * cover])


@pytest.mark.parametrize("distance, cover", [(-3.0, 0), (-2.45, 0.25), (-2.2, 0.5), (-1.1, 1), (0, 0.5), (0.75, 0)])
def test_an_outline_is_a_band_of_2_2_pixels_inside_the_edge(distance, cover):
    np.testing.assert_allclose(painted("outlined", distance), [100 + 100 * cover, 100, 100 - 100 * cover], atol=1e-9)


@pytest.mark.parametrize("distance", [0.75, 3.0])
def test_neon_glows_beyond_its_band(distance):
    """By 0.6 exp(-d / 2.5) of the tint at d pixels from the band."""
    glow = 0.6 * math.exp(-distance / 2.5)
    np.testing.assert_allclose(painted("neon", distance), [100 + 100 * glow, 100, 100 - 100 * glow])


def test_a_band_of_neon_is_a_quarter_lighter_than_its_tint():
    np.testing.assert_allclose(painted("neon", -1.1), [200 + 55 / 4, 100 + 155 / 4, 255 / 4])


def test_a_shape_is_painted_about_its_centre_and_cut_off_at_the_border():
    """A distance of 0.5 - x: pixels whose centre lies at x = 1 or more from the shape's centre are covered."""
    canvas = np.zeros((64, 64, 3))
    drawing.paint(canvas, lambda x, y, radius: 0.5 - x + 0 * y, np.full(3, 255.0), (3.5, 60.5), 4.0, "plain")
    reach = 16  # 2 radii + 8
    expected = np.zeros((64, 64))
    expected[60 - reach :, 4 : 3 + reach] = 255
    np.testing.assert_array_equal(canvas[..., 0], expected)


def test_a_tint_is_within_eight_of_its_colour_in_each_channel():
    tints = np.array([drawing.tint("cyan", shapes.scenes.Lot(0, 0, number)) for number in range(300)])
    off = tints - np.array(drawing.PALETTE["cyan"])
    assert np.abs(off).max() <= 8 and np.ptp(off, axis=0).min() > 15 and np.abs(off.mean(0)).max() < 1.4  # 5 of 8/31
    assert np.corrcoef(off.T)[np.triu_indices(3, 1)].max() < 0.3


def tile(picture, left, top):
    """A drawing of 64 x 64 that the gallery shows with 2 x 2 pixels for each of its own."""
    tile = np.asarray(picture)[top : top + 128, left : left + 128]
    assert (tile == np.repeat(np.repeat(tile[::2, ::2], 2, 0), 2, 1)).all()
    return tile[::2, ::2]


@pytest.mark.parametrize("control", arrangements.CONTROLS)
def test_the_controls_in_the_gallery_are_drawn_again(control):
    """They were drawn by an earlier version: the pictures on which control networks were trained stay the same."""
    shown = Image.open(GALLERY / "control" / f"{control}.png").convert("L")
    for number in range(8):
        example = arrangements.example("test", number, control, places=(16.0, 24.0, 32.0, 40.0, 48.0))
        np.testing.assert_array_equal(example.control[..., 0], tile(shown, 82 + 134 * number, 60))


def test_the_pictures_in_the_gallery_are_drawn_again():
    shown = Image.open(GALLERY / "image_prompt" / "reference.png").convert("RGB")
    for number in range(8):
        np.testing.assert_array_equal(shapes.example("test", number)[0], tile(shown, 98 + 134 * number, 12))
