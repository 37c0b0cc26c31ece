"""Drawings whose shapes are none of the eight: pure, and spoilt as their kind says."""

import numpy as np
import pytest
from scipy import ndimage

from diffusion.data.shapes import drawing, spoilt, templates
from diffusion.data.shapes.scenes import NONE, Lot, Scene

ONE = Scene("one", "plain", "red", "circle", "large", "middle")
PAIR = Scene("pair", "plain", "red", "circle", count=2, relation="left of", second_colour="blue", second_shape="star")


@pytest.fixture(scope="module")
def some():
    return spoilt.shapes(30, seed=1)


def mask(distance, radius=20.0):
    along = np.arange(128) - 63.5
    return distance(along, along[:, None], radius) < 0


@pytest.mark.slow
def test_shapes_are_the_same_each_time_and_of_three_kinds_in_turn(some):
    assert [one.kind for one in some] == ["broken", "blended", "blob"] * 10
    again = spoilt.shapes.__wrapped__(30, seed=1)
    assert all((mask(one.distance) == mask(other.distance)).all() for one, other in zip(some, again))
    others = spoilt.shapes(30, seed=2)
    assert any((mask(one.distance) != mask(other.distance)).any() for one, other in zip(some, others))


@pytest.mark.slow
def test_no_disc_or_square_covers_what_is_in_one_piece(some):
    """By a search of its own over size, place and turn, of two of the eight."""
    along = np.arange(128) - 63.5
    for one in some:
        inside = mask(one.distance)
        if ndimage.label(inside, np.ones((3, 3)))[1] > 1:
            continue
        y, x = (float(axis.mean()) - 63.5 for axis in np.nonzero(inside))
        right, down = along - x, (along - y)[:, None]
        for size in np.linspace(8, 24, 17):
            disc = np.hypot(right, down) < size
            assert (disc & inside).sum() < 0.85 * (disc | inside).sum(), one.kind
            for turn in np.linspace(0, np.pi / 2, 8, endpoint=False):
                square = (abs(np.cos(turn) * right + np.sin(turn) * down) < size) & (
                    abs(np.cos(turn) * down - np.sin(turn) * right) < size
                )
                assert (square & inside).sum() < 0.85 * (square | inside).sum(), one.kind


def test_a_blurred_picture_has_an_edge_as_wide_as_its_filter():
    """A step from 50 to 200 under a Gaussian: the standard deviation of its slope is that of the filter."""
    step = np.full((64, 64, 3), 50, np.uint8)
    step[:, 32:] = 200
    for number in range(4):
        lot, same = Lot(3, 0, number), Lot(3, 0, number)
        soft = spoilt.blurred(step, lot).astype(float)
        slope = np.diff(soft[30, :, 0]) / 150
        x = np.arange(63) - 31.0
        assert np.sqrt((slope * x**2).sum()) == pytest.approx(same.between(1.5, 3.0), rel=0.03)
    half = spoilt.blurred(step[16:48, 16:48], Lot(3, 0, 0)).astype(float)
    slope = np.diff(half[15, :, 0]) / 150
    assert np.sqrt((slope * (np.arange(31) - 15.0) ** 2).sum()) == pytest.approx(
        Lot(3, 0, 0).between(1.5, 3.0) / 2, rel=0.05
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", spoilt.KINDS)
def test_what_is_spoilt_has_no_shape_and_keeps_its_colour_and_place(kind):
    for scene in (ONE, PAIR):
        kept = []
        for number in range(6):
            image, shown = spoilt.draw(scene, Lot(5, 0, number), kind)
            again, _ = spoilt.draw(scene, Lot(5, 0, number), kind)
            assert image.dtype == np.uint8 and image.shape == (64, 64, 3) and (image == again).all()
            assert shown._replace(shape=scene.shape, second_shape=scene.second_shape) == scene
            lost = [name for name in ("shape", "second_shape") if getattr(scene, name) != getattr(shown, name)]
            assert lost and all(getattr(shown, name) == NONE for name in lost)
            kept.append(tuple(lost))
            strong = np.abs(image.astype(int) - image[0, 0]).max(-1) > 60
            y, x = np.nonzero(strong)
            assert 20 < x.mean() < 44 and 10 < y.mean() < 54
        assert scene is ONE or kind in ("averaged", "blurred") or len(set(kept)) > 1


def test_a_broken_disc_is_in_two_pieces_or_cut_off():
    """The second number of a lot says which; a disc is wider than any band that parts it."""
    along, parted_so_far = np.arange(64) - 31.5, set()
    disc = drawing.DISTANCES["circle"](along, along[:, None], 20.0) < 0
    for number in range(12):
        lot = Lot(3, 0, number)
        lot.between(0, 1)
        parted = lot.between(0, 1) < 0.5
        inside = spoilt.broken(drawing.DISTANCES["circle"], Lot(3, 0, number))(along, along[:, None], 20.0) < 0
        assert ndimage.label(inside)[1] == 1 + parted and 0.1 < inside.sum() / disc.sum() < 0.95
        assert not (inside & ~disc).any()
        parted_so_far.add(parted)
    assert parted_so_far == {True, False}


class Chosen:
    """Draws of a lot that are written down: shares of the range of a number, or of the list of options."""

    def __init__(self, *shares):
        self.shares = iter(shares)

    def between(self, low, high):
        return low + (high - low) * next(self.shares)

    def pick(self, options):
        return options[int(next(self.shares) * len(options))]


X, Y = np.meshgrid(np.linspace(-20, 20, 41), np.linspace(-20, 20, 41))


def test_a_blended_shape_is_a_mean_of_two_distances():
    """A quarter of the way from 0.35 to 0.65: 0.425 of the first, whose radius is that of both."""
    first, second = (lambda x, y, radius: x + radius), (lambda x, y, radius: 2 * y - radius)
    distance = spoilt.blended(first, second, Chosen(0.25))(X, Y, 10.0)
    np.testing.assert_allclose(distance, 0.425 * (X + 10) + 0.575 * (2 * Y - 10))


@pytest.mark.parametrize("parted", [True, False])
def test_a_broken_shape_lacks_a_band_or_what_is_beyond_a_line(parted):
    """At a quarter of a turn, the line is 0.2 radii below the centre; the band is 0.21 radii wide to both sides."""
    lot = Chosen(0.25, 0.4 if parted else 0.6, 0.75, 0.5)
    distance = spoilt.broken(lambda x, y, radius: np.hypot(x, y) - radius, lot)(X, Y, 10.0)
    disc, across = np.hypot(X, Y) - 10, Y - 0.2 * 10
    np.testing.assert_allclose(distance, np.maximum(disc, 2.1 - np.abs(across) if parted else across), atol=1e-12)


def test_a_blob_has_waves_of_two_to_five_crests():
    """Waves of half the largest amplitude, 0.3 / k, all with the phase pi / 2."""
    spoil = spoilt._shape("blob", Chosen(0.0, 0.0, *[0.5, 0.25] * 4))
    assert spoil.kind == "blob"
    angle = np.arctan2(Y, X)
    waves = sum(0.3 / k * np.cos(k * angle + np.pi / 2) for k in (2, 3, 4, 5))
    np.testing.assert_allclose(spoil.distance(X, Y, 10.0), np.hypot(X, Y) - 9 * (1 + waves), atol=1e-12)


@pytest.mark.parametrize("kind", ["broken", "blended"])
def test_a_spoilt_shape_is_made_of_the_shapes_that_are_drawn(kind):
    """First the circle, then the last of the other seven, the moon."""
    circle, moon = drawing.DISTANCES["circle"], drawing.DISTANCES["moon"]
    rest = (0.1, 0.2, 0.3, 0.4)
    spoil = spoilt._shape(kind, Chosen(0.0, 0.99, *rest))
    expected = spoilt.broken(circle, Chosen(*rest)) if kind == "broken" else spoilt.blended(circle, moon, Chosen(*rest))
    assert spoil.kind == kind
    np.testing.assert_array_equal(spoil.distance(X, Y, 12.0), expected(X, Y, 12.0))


@pytest.mark.parametrize(
    "share, shown", [(0.1, (NONE, NONE)), (0.5, (NONE, "star")), (0.9, ("circle", NONE))], ids=["both", "one", "other"]
)
def test_either_or_both_of_two_objects_are_spoilt(monkeypatch, share, shown):
    """Of bars in place of the spoilt shapes: the first object stands on the left."""
    bar = spoilt.Spoilt("blob", lambda x, y, radius: np.maximum(np.abs(x) - 2, np.abs(y) - 8))
    monkeypatch.setattr(spoilt, "shapes", lambda seed: (bar,))
    lot = Chosen(share, *[0.0] * (2 if share < 0.3 else 1), *[0.5] * 20)
    image, scene = spoilt.draw(PAIR, lot, "blob")
    assert (scene.shape, scene.second_shape) == shown
    paper = image[0, 0].astype(int)
    for left, is_spoilt in ((0, shown[0] == NONE), (32, shown[1] == NONE)):
        x = np.nonzero(np.abs(image[:, left : left + 32] - paper).max(-1) > 60)[1]
        assert (np.ptp(x) + 1 <= 5) == is_spoilt


KNOWN, fits = templates.drawn(9.0, 13.0, offsets=(0.0,)), templates.fits


def test_shapes_that_a_drawing_covers_are_left_out_and_kinds_take_turns(monkeypatch):
    """Squares count as none of the kinds; two pieces far apart do, each kind in its own order."""
    drawn = iter(range(10**6))

    def shape(kind, lot):
        number = next(drawn)
        offset = 4.0 + 0.1 * number
        if number % 2:
            return spoilt.Spoilt(kind, lambda x, y, radius: np.maximum(np.abs(x), np.abs(y)) - 0.84 * radius)
        return spoilt.Spoilt(kind, lambda x, y, radius: np.hypot(np.abs(x) - 2 * offset, y) - offset)

    compared = []
    monkeypatch.setattr(spoilt, "_shape", shape)
    monkeypatch.setattr(templates, "drawn", lambda *radii, **how: compared.append((radii, how)) or KNOWN)
    monkeypatch.setattr(templates, "fits", lambda masks, known: compared.append(masks) or fits(masks, known))
    some = spoilt.shapes.__wrapped__(8, seed=3)
    assert [one.kind for one in some] == [*["broken", "blended", "blob"] * 2, "broken", "blended"]
    offsets = [(0 - one.distance(0.0, 0.0, 1.0)) for one in some]  # 2 a - a = a away from the edge
    np.testing.assert_allclose(np.abs(offsets), [4.0, 4.4, 4.2, 4.6, 5.0, 4.8, 5.2, 5.6])
    # They are compared with turned drawings of radii from 0.6 to 1.15 of their own, about the middle of 64 pixels.
    assert compared[0] == (pytest.approx((7.2, 13.8)), {"turned": True, "offsets": (0.0,)})
    y, x = np.mgrid[:64, :64] - 31.5
    np.testing.assert_array_equal(compared[1][:2], [np.hypot(abs(x) - 8, y) < 4, np.maximum(abs(x), abs(y)) < 10.08])


def test_averaged_pictures_lie_between_two_drawings(monkeypatch):
    """Where both shapes are, and where neither is, the mean is that of either; between, it is a share of both."""
    drawn = []
    real = drawing.draw
    monkeypatch.setattr(drawing, "draw", lambda *arguments: drawn.append(real(*arguments)) or drawn[-1])
    image, _ = spoilt.draw(ONE, Lot(5, 0, 1), "averaged")
    one, other = (picture.astype(float) for picture in drawn)
    apart = np.abs(one - other).max(-1) > 60
    assert apart.sum() > 40 and (image[~(one != other).any(-1)] == one[~(one != other).any(-1)]).all()
    share = ((image - other) / np.where(one == other, np.nan, one - other))[apart]
    assert np.nanstd(share) < 0.02 and 0.35 <= np.nanmean(share) <= 0.65


def test_the_pictures_that_are_averaged_have_the_same_draws(monkeypatch):
    """Their seed is a number of 53 bits, of which a half is the first bit."""
    seeds = []
    monkeypatch.setattr(spoilt, "Lot", lambda *numbers: seeds.append(numbers) or Lot(*numbers))
    spoilt.draw(ONE, Chosen(0.5, 0.5, 0.0), "averaged")
    assert seeds == [(2**52, 12, 0)] * 2


def test_a_blur_leaves_whites_and_blacks_in_range():
    """Under the filter nothing leaves 0 to 255, and what is even stays as it is."""
    for value in (0, 255):
        even = np.full((64, 64, 3), value, np.uint8)
        assert (spoilt.blurred(even, Lot(3, 0, 0)) == value).all()


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"no kind 'torn'\. Valid: broken, blended, blob, averaged, blurred"):
        spoilt.draw(ONE, Lot(5, 0, 0), "torn")
