"""What moves in clips, on squares whose places, areas and colours are known."""

import numpy as np
import pytest

from examples.video import moving_objects

PAPER, RED, GREY = (250, 247, 240), (214, 40, 40), (120, 120, 128)


def clip(places, size=4, side=24, colours=None):
    """A clip of one square; places are the corners, None where it is hidden."""
    frames = np.full((len(places), side, side, 3), PAPER, np.uint8)
    for frame, (place, colour) in enumerate(zip(places, colours or [RED] * len(places))):
        if place is not None:
            frames[frame, place[1] : place[1] + size, place[0] : place[0] + size] = colour
    return frames


STEADY = clip([(2 + 2 * f, 5 + f) for f in range(8)])


def test_places_areas_colours_and_counts_are_exact():
    two = STEADY.copy()
    two[3, 20:23, 2:5] = RED
    found = moving_objects.tracks(np.stack([STEADY, two, clip([None] * 8)]))
    np.testing.assert_allclose(found.area[0], 16)
    np.testing.assert_allclose(found.centre[0], [(4 + 2 * f, 7 + f) for f in range(8)])
    np.testing.assert_allclose(found.colour[0], np.tile(RED, (8, 1)))
    np.testing.assert_array_equal(found.count, [[1] * 8, [1, 1, 1, 2, 1, 1, 1, 1], [0] * 8])
    assert np.isnan(found.centre[2]).all() and found.area[1, 3] == 16 + 9


def test_paper_and_bars_are_no_things():
    plain = clip([None] * 8)
    plain[:, :, 8:12] = GREY
    assert moving_objects.weights(plain[None]).max() == 0


def test_velocity_speed_and_line_error():
    places = moving_objects.tracks(STEADY[None]).centre
    np.testing.assert_allclose(moving_objects.velocity(places), [[2, 1]])
    np.testing.assert_allclose(moving_objects.speeds(places), np.full((1, 7), np.sqrt(5)))
    np.testing.assert_allclose(moving_objects.line_error(places), 0, atol=1e-12)
    hidden = places.copy()
    hidden[0, 3:5] = np.nan
    np.testing.assert_allclose(moving_objects.velocity(hidden), [[2, 1]])
    off = np.stack([np.arange(4.0), [1.0, -1, -1, 1]], -1)[None]  # the second axis has no trend
    np.testing.assert_allclose(moving_objects.velocity(off), [[1, 0]], atol=1e-12)
    np.testing.assert_allclose(moving_objects.line_error(off), 1)
    with_gap = np.stack([np.arange(5.0), [1.0, -1, 0, -1, 1]], -1)[None]
    with_gap[0, 2] = np.nan  # the mean is over four frames
    np.testing.assert_allclose(moving_objects.line_error(with_gap), 1)
    assert np.isnan(moving_objects.velocity(np.full((1, 4, 2), np.nan))).all()


def test_a_speed_is_outside_its_range_by_a_share_of_the_middle():
    off = moving_objects.outside(np.array([5.0, 10, 20, 30, 7]), np.array([[10.0, 20]] * 4 + [[8, 12]]))
    np.testing.assert_allclose(off, [5 / 15, 0, 0, 10 / 15, 1 / 10])


def test_drift_of_size_and_colour():
    growing = np.stack([clip([(4, 4)], size)[0] for size in (4, 4, 6, 6)])[None]
    found = moving_objects.tracks(growing)
    whole = np.ones((1, 4), bool)
    np.testing.assert_allclose(moving_objects.size_drift(found, whole), 10 / 26)  # areas 16 and 36
    np.testing.assert_allclose(moving_objects.size_drift(found, whole & (found.area < 20)), 0)
    assert np.isnan(moving_objects.size_drift(found, ~whole)).all()
    empty = moving_objects.tracks(clip([None] * 4)[None])
    assert np.isnan(moving_objects.size_drift(empty, whole)).all()
    tinted = clip([(4, 4)] * 2, colours=[(200, 40, 40), (200, 40, 70)])[None]
    drift = moving_objects.colour_drift(moving_objects.tracks(tinted), whole[:, :2])
    np.testing.assert_allclose(drift, 15)


def test_what_is_hidden_returns_where_its_motion_takes_it_as_itself():
    line = [(1, 8), (4, 8), (7, 8), None, None, (16, 8), (19, 8)]
    truth = np.tile([(3.0 + 3 * f, 10.0) for f in range(7)], (9, 1, 1))
    seen = np.tile([1, 1, 0.5, 0, 0, 0.5, 1], (9, 1))
    blue = [(40, 80, 210)]
    clips = np.stack([
        clip(line),
        clip([(x, y + 9) for x, y in line[:3]] + [None, None, (16, 17), (19, 17)]),  # the same motion elsewhere
        clip([*line[:5], (7, 8), (4, 8)]),  # it turns round behind the bar
        clip([*line[:5], None, None]),  # gone
        clip([(1 + 3 * f, 8) for f in range(7)]),  # never hidden
        clip(line, colours=[RED] * 5 + blue * 2),  # another comes out
        clip([*line[:5], (22, 2), (22, 2)], 2, colours=[RED] * 5 + blue * 2),  # a speck in a corner
        clip([*line[:4], (13, 8), (16, 8), (19, 8)]),  # hidden for a frame too few
        clip([None] * 7),
    ])  # fmt: skip
    found = moving_objects.tracks(clips)
    np.testing.assert_array_equal(moving_objects.returns(found, truth, seen), [True, True] + [False] * 7)
    shrunk = clip(line)
    shrunk[5:] = clip([(x + 1, y + 1) if x else None for x, y in [(16, 8), (19, 8)]], 2)  # a quarter of its area
    one = moving_objects.tracks(shrunk[None])
    assert not moving_objects.returns(one, truth[:1], seen[:1])
    assert not moving_objects.returns(found, truth, np.ones((9, 7))).any()  # nothing should be hidden


def test_flicker_leaves_out_what_moves():
    assert moving_objects.flicker(STEADY[None]) == 0
    uneven = STEADY.copy()
    uneven[1::2] = np.where(uneven[1::2] == PAPER, uneven[1::2] - np.uint8(6), uneven[1::2])
    np.testing.assert_allclose(moving_objects.flicker(uneven[None]), 6)
    noise = np.random.default_rng(0).integers(0, 256, (1, 4, 24, 24, 3), np.uint8)
    assert np.isnan(moving_objects.flicker(noise)).all()  # no pixel of it is still


def test_the_part_around_a_place():
    places = moving_objects.tracks(STEADY[None]).centre
    parts = moving_objects.around(STEADY[None], places, 8)
    expected = np.full((8, 8, 3), PAPER, np.uint8)
    expected[2:6, 2:6] = RED
    np.testing.assert_array_equal(parts, np.tile(expected, (1, 8, 1, 1, 1)))
    corner = moving_objects.around(STEADY[None], np.zeros((1, 8, 2)), 8)
    np.testing.assert_array_equal(corner[0, 0], np.tile(PAPER, (8, 8, 1)))  # beyond the frame its border is repeated
    middle = moving_objects.around(STEADY[None], np.full((1, 8, 2), np.nan), 4)
    np.testing.assert_array_equal(middle[0], STEADY[:, 10:14, 10:14])


def test_other_arrays_are_refused():
    with pytest.raises(TypeError, match="uint8, got float32"):
        moving_objects.tracks(STEADY[None].astype(np.float32))
    with pytest.raises(ValueError, match=r"clips must be \[N, F, H, W, 3\], got \[8, 24, 24, 3\]"):
        moving_objects.tracks(STEADY)
