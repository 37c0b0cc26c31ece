"""The best drawn template of a mask: figures of geometry that are drawn here by other means."""

import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from diffusion.data.shapes import drawing, templates
from diffusion.data.shapes.scenes import SHAPES

FINE = 16  # parts of a pixel's side in which polygons are drawn


def polygon(corners, centre=(32.0, 32.0)):
    """The mask of a polygon [64, 64], by the majority of a pixel's parts; corners from the centre, in pixels."""
    image = Image.new("1", (64 * FINE, 64 * FINE))
    moved = [((x + centre[0]) * FINE - 0.5, (y + centre[1]) * FINE - 0.5) for x, y in corners]
    ImageDraw.Draw(image).polygon(moved, fill=1)
    return np.asarray(image).reshape(64, FINE, 64, FINE).mean((1, 3)) > 0.5


def regular(corners, radius, turn=0.0):
    """The corners of a regular polygon whose first one points up, turned clockwise by so many degrees."""
    angles = np.deg2rad(turn) + 2 * math.pi * np.arange(corners) / corners
    return [(radius * math.sin(angle), -radius * math.cos(angle)) for angle in angles]


def square(half):
    return [(-half, -half), (half, -half), (half, half), (-half, half)]


@pytest.fixture(scope="module")
def known():
    return templates.drawn(5.5, 14.5)


@pytest.mark.extended
@pytest.mark.parametrize(
    "shape, corners, radius",
    [
        ("square", square(8.4), 10.0),
        ("diamond", [(0, -11.5), (8.5, 0), (0, 11.5), (-8.5, 0)], 10.0),
        ("circle", regular(90, 9.5), 10.0),
        ("star", [point for far, near in zip(regular(5, 13.8), regular(5, 6.0, 36)) for point in (far, near)], 12.0),
    ],
)
def test_a_figure_of_geometry_is_its_own_best_template(known, shape, corners, radius):
    masks = np.stack([polygon(corners, centre) for centre in ((32, 32), (20.3, 40.6), (44.5, 22.5))])
    found = templates.fits(masks, known)
    index = SHAPES.index(shape)
    assert (found.overlap.argmax(1) == index).all() and (found.overlap[:, index] > 0.9).all()
    np.testing.assert_allclose(found.radius[:, index], radius, rtol=0.1)  # one mask is that of several radii
    np.testing.assert_allclose(found.centre[:, index], [(32, 32), (20.3, 40.6), (44.5, 22.5)], atol=0.6)


@pytest.mark.extended
def test_half_a_square_is_covered_as_geometry_says(known):
    """A square of side s and a strip a x a/2: s a/2 of a^2/2 + s^2 - s a/2, at best q / (1 - q), q = sqrt(2)/4."""
    half = polygon([(-12, -6), (12, -6), (12, 6), (-12, 6)])
    (overlap,) = templates.fits(half[None], known).overlap
    best = math.sqrt(2) / 4
    assert overlap[SHAPES.index("square")] == pytest.approx(best / (1 - best), abs=0.03)


def test_a_disc_is_covered_by_a_square_as_geometry_says(known):
    """The best square about a disc of radius 1 by a search on a fine grid, of which no template knows."""
    along = (np.arange(-400, 400) + 0.5) / 300
    disc = np.hypot(along, along[:, None]) < 1
    ratio = []
    for half in np.linspace(0.7, 1.1, 41):
        inside = np.maximum(abs(along), abs(along[:, None])) < half
        ratio.append((disc & inside).sum() / (disc | inside).sum())
    (overlap,) = templates.fits(polygon(regular(90, 10.0))[None], known).overlap
    assert overlap[SHAPES.index("square")] == pytest.approx(max(ratio), abs=0.02)


@pytest.mark.parametrize("smallest, largest, number", [(5.0, 10.0, 19), (10.0, 10.2, 2), (6.0, 6.0 * 1.04**3, 4)])
def test_radii_are_at_most_four_per_cent_apart(smallest, largest, number):
    known = templates.drawn(smallest, largest, offsets=(0.0, 0.5))
    radii = np.unique(known.radius)
    assert len(radii) == number and (radii[0], radii[-1]) == pytest.approx((smallest, largest))
    assert (radii[1:] / radii[:-1]).max() < 1.04 + 1e-9
    assert known.side == 2 * math.ceil(1.2 * largest + 0.5)  # all that a shape reaches, wherever it stands


def test_what_leaves_the_templates_square_still_counts():
    """A mask of the whole picture: the largest template is all that is common."""
    known = templates.drawn(9.0, 10.0, offsets=(0.0,))
    found = templates.fits(np.ones((1, 64, 64), bool), known)
    assert found.overlap[0, SHAPES.index("square")] == pytest.approx(16.8**2 / 4096, rel=0.1)


def test_an_empty_mask_has_no_overlap(known):
    found = templates.fits(np.zeros((2, 64, 64), bool), known)
    assert (found.overlap == 0).all() and np.isfinite(found.centre).all()


def test_turned_shapes_are_found_where_shapes_may_turn():
    """A square by 20 degrees: the turned templates cover it, and upright ones no better than a disc of its area."""
    mask = polygon(regular(4, 10 * 0.84 * math.sqrt(2), 45 + 20))[None]
    index = SHAPES.index("square")
    offsets = (-0.5, 0.0, 0.5)
    turned = templates.drawn(10.0, 10.2, turned=True, offsets=offsets)
    upright = templates.drawn(10.0, 10.2, offsets=offsets)
    assert templates.fits(mask, turned).overlap[0, index] > 0.93
    assert templates.fits(mask, upright).overlap[0, index] < 0.85
    assert set(np.unique(turned.turn[turned.shape == index])) == {7.5 * turn for turn in range(12)}
    assert set(turned.turn[turned.shape == SHAPES.index("circle")]) == {0.0}
    assert set(turned.turn[turned.shape == SHAPES.index("triangle")]) == {7.5 * turn for turn in range(48)}


def test_a_turn_is_clockwise():
    """The tip of a triangle, above at first, is on the right after a quarter of a turn, and then below."""
    x, y = np.array([0.0, 9.0, 0.0, -9.0]), np.array([-9.0, 0.0, 9.0, 0.0])
    for turns in range(4):
        inside = templates._inside(drawing.DISTANCES["triangle"], x, y, 10.0, 90.0 * turns)
        assert inside.tolist() == [turns == place for place in range(4)]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_centre_of_mass_of_a_triangle_is_a_third_of_its_height_above_the_base(turns):
    """From -0.9589 to 0.87 radii: its centre is 0.26 radii below, and turns with the triangle, clockwise."""
    top = 0.15 - 0.55 / 0.496
    below = (2 * 0.87 + top) / 3
    x, y = templates._centre_of_mass(drawing.DISTANCES["triangle"], 90.0 * turns)
    np.testing.assert_allclose((x, y), [(0, below), (-below, 0), (0, -below), (below, 0)][turns], atol=0.005)


def test_the_best_template_stands_where_the_mask_stands():
    """A square of half side 8.4, from 20 to 36.8 along x and from 10 to 26.8 along y, of radius 10."""
    known = templates.drawn(9.9, 10.1, offsets=(-0.5, 0.0, 0.5))
    index = SHAPES.index("square")
    found = templates.fits(polygon(square(8.4), (28.4, 18.4))[None], known)
    assert found.overlap[0].argmax() == index and found.overlap[0, index] > 0.93
    np.testing.assert_allclose(found.centre[0, index], [28.4, 18.4], atol=0.6)
    assert found.radius[0, index] == pytest.approx(10, abs=0.15)


@pytest.mark.parametrize("shape, length", [
    ("circle", 2 * math.pi * 0.95), ("square", 8 * 0.84), ("diamond", 4 * math.hypot(0.85, 1.15)), ("cross", 8.0),
])  # fmt: skip
def test_the_length_of_an_edge_is_that_of_geometry(shape, length):
    assert templates.edge_length(drawing.DISTANCES[shape]) == pytest.approx(length, rel=0.02)
