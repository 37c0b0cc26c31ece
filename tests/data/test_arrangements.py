"""Arranged drawings: the same each time, shapes that fit, and controls that show exactly where they are."""

import numpy as np
import pytest

from diffusion.data import sources
from diffusion.data.shapes import arrangements, drawing, scenes
from diffusion.data.shapes.arrangements import Arrangement, Thing
from diffusion.data.shapes.scenes import Lot

SQUARE = Thing("red", "square", 24.0, 20.0, 10.0)  # its half side is 0.84 radii
OVER = Thing("blue", "square", 32.0, 20.0, 10.0)
BOTH = Arrangement("plain", (SQUARE, OVER))


@pytest.fixture(scope="module")
def examples():
    return [arrangements.example("train", row, "outlines") for row in range(60)]


def test_an_example_is_a_function_of_its_row_and_one_picture_has_all_controls(examples):
    for control in arrangements.CONTROLS:
        other = arrangements.example("train", 5, control)
        np.testing.assert_array_equal(other.image, examples[5].image)
        assert other[:2] == examples[5][:2] and other.control.shape == (64, 64, 3)
    again = arrangements.example("train", 5, "sketch")
    np.testing.assert_array_equal(again.control, arrangements.example("train", 5, "sketch").control)
    assert (
        arrangements.example("test", 5, "outlines").caption != ""
        and (arrangements.example("test", 5, "outlines").image != examples[5].image).any()
    )


def test_captions_say_what_is_there_and_not_where(examples):
    for example in examples:
        things = example.arrangement.things
        scene = scenes.parsed(example.caption)
        assert scene.position == scene.relation == scenes.NONE and scene.count == len(things)
        looks = {(thing.colour, thing.shape) for thing in things}
        named = {(scene.colour, scene.shape)} | ({(scene.second_colour, scene.second_shape)} & looks)
        assert looks == named and scene.style == example.arrangement.style
        assert not looks & scenes.WITHHELD


def test_shapes_lie_within_the_picture_and_enough_is_seen_of_each(examples):
    over = 0
    for arrangement, *_ in examples:
        seen = arrangements.visible(arrangement)
        alone = np.stack([arrangements.visible(arrangement._replace(things=(t,)))[0] for t in arrangement.things])
        assert (seen.sum((1, 2)) >= arrangements.SEEN * alone.sum((1, 2))).all()
        assert not alone[:, [0, -1]].any() and not alone[:, :, [0, -1]].any()
        over += (seen.sum() < alone.sum()) and arrangement.style == "plain"
        assert seen.sum() == alone.sum() or arrangement.style == "plain"
    assert over >= 5


def test_shapes_keep_to_given_places():
    """Each centre is one of the places, also where five shapes need them."""
    over = {}
    for places in ((16.0, 24.0, 32.0, 40.0, 48.0), drawing.PLACES):
        plans = [arrangements.draw(Lot(0, 0, row), places)[0].things for row in range(40)]
        assert {place for things in plans for thing in things for place in (thing.x, thing.y)} <= set(places)
        assert max(len(things) for things in plans) >= 4
        apart = [np.hypot(a.x - b.x, a.y - b.y) for a, b in (things for things in plans if len(things) == 2)]
        over[len(places)] = sum(distance < 16 for distance in apart)
    assert over[5] >= 3 and over[3] == 0


def test_what_is_seen_of_two_squares_is_what_the_nearer_leaves():
    """Of squares of half side 8.4 about x = 24 and 32: 16 columns of pixel centres each, the nearer hides 8 of them."""
    seen = arrangements.visible(BOTH)
    assert seen.sum((1, 2)).tolist() == [16 * 8, 16 * 16]
    np.testing.assert_allclose(arrangements.centres(BOTH), [[20.0, 20.0], [32.0, 20.0]])
    np.testing.assert_allclose(arrangements.centres(BOTH._replace(things=(OVER, SQUARE)))[0], [36.0, 20.0])


@pytest.mark.parametrize("x, fits", [(34.0, True), (30.0, False)])
def test_enough_is_seen_of_both_shapes(x, fits):
    """Of a square of ten columns of pixels, a larger one covers about three, or eight."""
    small = Thing("blue", "square", x, 20.0, 6.0)
    assert arrangements._fits((SQUARE, small), True, 0.0) == fits


def test_controls_show_edges_and_order():
    layers = arrangements.layers(BOTH)[..., 0]
    assert layers[20, 32] == 255 and layers[20, 18] == 255 - arrangements.FARTHER and layers[50, 50] == 0
    turned = arrangements.layers(BOTH._replace(things=(OVER, SQUARE)))[..., 0]
    assert turned[20, 24] == 255 and turned[20, 38] == 255 - arrangements.FARTHER
    outlines = arrangements.outlines(BOTH)[..., 0]
    assert outlines[20, 15] > 200 and outlines[20, 23] > 200 and outlines[20, 40] > 200  # left, between, right
    assert outlines[20, 32] == 0 and outlines[20, 20] == 0  # the hidden edge of the first, and insides
    paper = arrangements.sketch(BOTH, Lot(0, 0, 0))[..., 0]
    dark = paper < 200
    near = np.array([arrangements.outlines(BOTH._replace(things=(t,)))[..., 0] > 0 for t in BOTH.things]).any(0)
    spread = np.array([np.roll(near, (i, j), (0, 1)) for i in (-2, 0, 2) for j in (-2, 0, 2)]).any(0)
    assert 60 < dark.sum() < 400 and (dark & ~spread).sum() <= 0.1 * dark.sum()


def test_a_sketch_leaves_out_a_third_of_its_lines(monkeypatch):
    """Beside the same lines without gaps."""
    circle = Arrangement("plain", (Thing("red", "circle", 32.0, 32.0, 20.0),))
    dark = lambda: sum((arrangements.sketch(circle, Lot(0, 0, number)) < 160).sum() for number in range(60))
    with_gaps = dark()
    monkeypatch.setattr(arrangements, "GAPS", 0.0)
    assert 0.62 < with_gaps / dark() < 0.78


def test_two_shapes_have_a_radius_each(examples):
    pairs = [example.arrangement.things for example in examples if scenes.parsed(example.caption).kind == "pair"]
    assert len(pairs) > 9 and all(first.radius != second.radius for first, second in pairs)
    several = [example.arrangement.things for example in examples if scenes.parsed(example.caption).kind == "several"]
    assert all(len({thing.radius for thing in things}) == 1 for things in several)


def test_the_picture_has_the_colours_of_its_plan():
    image = arrangements.picture(BOTH, Lot(0, 0, 1)).astype(int)
    for x, colour in ((18, "red"), (32, "blue")):
        assert np.abs(image[20, x] - np.array(drawing.PALETTE[colour])).max() <= 9


def test_sources_of_drawings_and_what_they_refuse():
    source = sources.arranged_drawings("test", kind="layers", number=3)
    record = source[2]
    assert len(source) == 3 and len(source.captions()) == 3
    placed = sources.arranged_drawings("test", number=3, places=(16.0, 32.0, 48.0))[2]["image"]
    here = arrangements.example("test", 2, "outlines", places=(16.0, 32.0, 48.0)).image
    np.testing.assert_array_equal(placed, here)
    assert (placed != record["image"]).any()
    np.testing.assert_array_equal(record["condition"]["control"], arrangements.example("test", 2, "layers").control)
    assert source.spec.condition["control"] == sources.Leaf((64, 64, 3), "uint8")
    captions = sources.drawings(number=40).captions()
    assert 10 <= captions.count("a picture") <= 30
    assert "a picture" not in sources.drawings(number=10, silent=0).captions()
    for make, message in (
        (lambda: sources.arranged_drawings("validation"), "no split 'validation'"),
        (lambda: sources.arranged_drawings(kind="depth"), "kind = 'depth'. Valid: outlines, layers, sketch"),
        (lambda: sources.arranged_drawings(places=(16.0, 48.0)), r"places = \(16.0, 48.0\). Valid: \(\) for anywhere"),
        (lambda: sources.drawings(silent=2.0), "silent = 2.0. Valid: 0 to 1"),
        (lambda: sources.drawings(number=0), "number = 0. Valid: at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
