"""Pictures of shapes measured without a network: drawings hold in everything; cut, blended and blurred ones do not."""

import numpy as np
import pytest
from scipy import ndimage

from diffusion.data import shapes
from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import NONE, SHAPES, Lot, Scene
from examples.text import drawn_objects

EACH = 8  # pictures of a shape


def verdicts(images, requested):
    pictures = np.clip(np.round(images), 0, 255).astype(np.uint8)
    return [drawn_objects.verdict(*pair) for pair in zip(requested, drawn_objects.measured(pictures, requested))]


def shares(images, requested):
    score = drawn_objects.score(verdicts(images, requested))
    return {name: share["share"] for name, share in score.items()}


@pytest.fixture(scope="module")
def large():
    """(pictures float [64, 64, 64, 3], scenes): a large shape in the middle of each, eight of each shape."""
    requested = [
        Scene("one", "plain", scenes.COLOURS[i // EACH], SHAPES[i % EACH], "large", "middle") for i in range(64)
    ]
    return np.stack([drawing.draw(scene, Lot(5, 0, i)) for i, scene in enumerate(requested)]).astype(float), requested


@pytest.mark.extended
@pytest.mark.parametrize("split", ["test", "withheld"])
def test_drawings_hold_in_everything(split):
    drawn = [shapes.example(split, number) for number in range(100)]
    joined = lambda scene: scene.style == "neon" and scene.kind == "several"  # neighbours whose glow may join
    images, _, requested = zip(*[one for one in drawn if one[2].kind != "word" and not joined(one[2])])
    assert {(scene.kind, scene.style) for scene in requested} >= {("one", "neon"), ("pair", "outlined")}
    found = shares(np.stack(images), requested)
    assert set(found) == {"all", *drawn_objects.PARTS} and set(found.values()) == {1.0}


@pytest.mark.extended
def test_several_shapes_in_neon_mostly_hold():
    """Their glows join where two tips meet; the others hold in everything."""
    scene = lambda i: Scene("several", "neon", scenes.COLOURS[i % 8], SHAPES[i // 8], count=2 + i % 4)
    requested = [scene(i) for i in range(64)]
    found = shares(np.stack([drawing.draw(one, Lot(6, 0, i)) for i, one in enumerate(requested)]), requested)
    assert 0.75 < found["all"] == found["count"] < 1


@pytest.mark.extended
def test_what_a_caption_leaves_open_is_not_judged(large):
    requested = [scenes.parsed("a circle"), scenes.parsed("a red shape"), scenes.parsed('the word "cat"')]
    images = np.stack([drawing.draw(scenes.completed(scene, Lot(3, 0, 0)), Lot(3, 0, 1)) for scene in requested])
    pictures = drawn_objects.measured(images, requested)
    open_colour, open_shape = (drawn_objects.verdict(*pair) for pair in zip(requested[:2], pictures))
    assert set(open_colour) == {"shape", "whole", "one_piece", "sharp"} and all(open_colour.values())
    assert set(open_shape) == {"whole", "one_piece", "sharp", "colour"} and all(open_shape.values())
    assert pictures[2].objects == []


def test_cut_shapes_are_not_whole(large):
    images, requested = large
    cut = images.copy()
    cut[:, :, 32:] = images[:, :1, :1]
    found = shares(cut, requested)
    assert found["whole"] == found["all"] == 0 and found["one_piece"] == 1


@pytest.mark.extended
def test_shapes_in_two_pieces_are_counted(large):
    images, requested = large
    split = images.copy()
    split[:, :, 30:34] = images[:, :1, :1]
    assert shares(split, requested)["one_piece"] == 0
    dotted = images.copy()
    dotted[:, 2:5, 2:5] = (0, 0, 0)  # a stray dot of nine pixels
    assert shares(dotted, requested)["one_piece"] == 0
    dotted[:, 2:5, 2:5] = images[:, :1, :1]
    dotted[:, 2, 2:5] = (0, 0, 0)  # one of three pixels is none
    assert shares(dotted, requested)["one_piece"] == 1


@pytest.mark.extended
def test_blurred_edges_are_as_wide_as_the_blur(large):
    """An edge under a Gaussian of deviation s has sum c (1 - c) = s / sqrt(pi) for each pixel of its length."""
    images, requested = large
    squares = [i for i, scene in enumerate(requested) if scene.shape == "square"]
    for deviation in (1.5, 2.0):
        blurred = ndimage.gaussian_filter(images, (0, deviation, deviation, 0))
        assert shares(blurred, requested)["sharp"] == 0
        pictures = drawn_objects.measured(np.round(blurred[squares]).astype(np.uint8), [requested[i] for i in squares])
        edges = [picture.objects[0].edge for picture in pictures]
        np.testing.assert_allclose(edges, 6 * deviation / np.sqrt(np.pi), rtol=0.2)


@pytest.mark.extended
def test_two_shapes_averaged_are_refused(large):
    """The mean of each drawing and one of another shape in the same place, size and colour, 56 of them."""
    images, requested = large
    rows = [i for i in range(64) if i // EACH < 7]
    others = []
    for i in rows:
        other = requested[i]._replace(shape=SHAPES[(i % EACH + 1 + i // EACH) % EACH])
        others.append(drawing.draw(other, Lot(5, 0, i)))
    found = shares((images[rows] + np.stack(others)) / 2, [requested[i] for i in rows])
    assert found["all"] <= 0.05 and found["sharp"] <= 0.1 and found["whole"] <= 0.5


def test_a_blob_is_none_of_the_shapes():
    """Three lobes, r = 11 (1 + 0.35 cos 3 a), drawn here: no shape covers it by 0.85."""
    x, y = np.arange(64) - 31.5, np.arange(64)[:, None] - 31.5
    cover = np.clip(11 * (1 + 0.35 * np.cos(3 * np.arctan2(y, x))) - np.hypot(x, y) + 0.5, 0, 1)[..., None]
    picture = np.round(245 + cover * (np.array(drawing.PALETTE["red"]) - 245)).astype(np.uint8)
    ((blob,), _) = drawn_objects.measured(picture[None], [scenes.parsed("a red shape")])[0]
    assert blob.overlap.max() < drawn_objects.WHOLE and blob.parts == 1 and blob.edge < 2


@pytest.mark.parametrize("width", [1.5, 3.0])
def test_an_edge_is_as_wide_as_its_ramp(width):
    """A disc of radius 11 whose cover falls evenly from 1 to 0 over so many pixels."""
    x, y = np.arange(64) - 31.5, np.arange(64)[:, None] - 31.5
    cover = np.clip((11 - np.hypot(x, y)) / width + 0.5, 0, 1)[..., None]
    picture = np.round(245 + cover * (np.array(drawing.PALETTE["red"]) - 245)).astype(np.uint8)
    (disc,) = drawn_objects.measured(picture[None], [scenes.parsed("a red circle")])[0].objects
    assert disc.edge == pytest.approx(width, rel=0.05)


def test_a_size_is_the_one_whose_middle_is_nearest():
    """Radii of small, medium and large drawings have the middles 6.3, 9.6 and 13.3: the ways part at 7.95 and 11.45."""
    star = SHAPES.index("star")

    def size(radius):
        every = np.full(8, 99.0)
        every[star] = radius
        one = drawn_objects.Drawn(np.eye(8)[star], every, np.zeros((8, 2)), 1, np.eye(8)[0], 1.0)
        scenes_of_sizes = {name: Scene("one", "plain", NONE, "star", name) for name in scenes.SIZES}
        picture = drawn_objects.Picture([one])
        return [name for name, scene in scenes_of_sizes.items() if drawn_objects.verdict(scene, picture)["size"]]

    assert [size(radius) for radius in (7.9, 8.0, 11.4, 11.5)] == [["small"], ["medium"], ["medium"], ["large"]]


@pytest.mark.extended
def test_another_shape_or_colour_is_seen(large):
    images, requested = large
    found = shares(images, [scene._replace(shape=SHAPES[SHAPES.index(scene.shape) - 1]) for scene in requested])
    assert found["shape"] == 0 and found["colour"] == 1
    found = shares(images, [scene._replace(colour="red") for scene in requested])
    assert found["colour"] == 1 / 8 and found["shape"] == 1
    found = shares(images, [scene._replace(size="small", position="top") for scene in requested])
    assert found["size"] == found["position"] == 0


def test_the_share_of_a_colour_is_that_of_the_pixels():
    """A square of 16 x 16 pixels of which 4 columns are blue and the others red."""
    picture = np.full((64, 64, 3), 245, np.uint8)
    picture[24:40, 24:40] = drawing.PALETTE["red"]
    picture[24:40, 24:28] = drawing.PALETTE["blue"]
    scene = scenes.parsed("a red square")
    (one,) = drawn_objects.measured(picture[None], [scene])[0].objects
    assert one.colours[scenes.COLOURS.index("blue")] == 0.25 and one.colours[scenes.COLOURS.index("red")] == 0.75
    assert not drawn_objects.verdict(scene, drawn_objects.Picture([one]))["colour"]
    assert one.overlap[SHAPES.index("square")] == pytest.approx(1, abs=0.04)


PAIR = Scene("pair", "plain", "red", "circle", count=2, relation="left of", second_colour="blue", second_shape="star")


@pytest.mark.extended
@pytest.mark.parametrize("shown, wrong", [
    (PAIR, set()),
    (PAIR._replace(relation="right of"), {"relation"}),
    (PAIR._replace(relation="above"), {"relation"}),
    (PAIR._replace(second_colour="green"), {"colour"}),
    (PAIR._replace(second_shape="cross"), {"shape", "whole"}),
    (PAIR._replace(colour="blue", second_colour="red"), {"relation", "shape", "whole"}),  # halves are named by colour
    (Scene("one", "plain", "red", "circle", "medium", "left"), {"shape", "whole", "colour", "relation"}),  # cut in two
])  # fmt: skip
def test_two_objects(shown, wrong):
    image = drawing.draw(shown, Lot(7, 0, 0))
    (found,) = verdicts(image[None], [PAIR])
    assert {name for name, right in found.items() if not right} == wrong
    (found,) = verdicts(image[None], [PAIR._replace(relation=NONE)])
    assert {name for name, right in found.items() if not right} == wrong - {"relation"}


def test_two_of_one_shape_are_named_by_their_colours():
    scene = PAIR._replace(relation="right of", second_shape="circle")
    (found,) = verdicts(drawing.draw(scene, Lot(7, 0, 0))[None], [scene])
    assert all(found.values()) and "relation" in found


def test_several_objects_are_counted():
    image = drawing.draw(Scene("several", "plain", "green", "moon", count=3), Lot(9, 0, 0))[None]
    assert all(verdicts(image, [scenes.parsed("three green moons")])[0].values())
    more = verdicts(image, [scenes.parsed("two green moons")])[0]
    assert [name for name, right in more.items() if not right] == ["count"]
    fewer = verdicts(image, [scenes.parsed("four green moons")])[0]
    assert not any(fewer.values())  # a missing object is in no way right


def test_an_empty_picture_shows_nothing():
    (found,) = verdicts(np.full((1, 64, 64, 3), 245.0), [scenes.parsed("a small red circle")])
    assert not any(found.values())


def test_other_pictures_are_refused():
    scene = scenes.parsed("a red circle")
    with pytest.raises(TypeError, match="uint8, got float32"):
        drawn_objects.measured(np.zeros((1, 64, 64, 3), np.float32), [scene])
    with pytest.raises(ValueError, match=r"pictures must be \[2, 64, 64, 3\]"):
        drawn_objects.measured(np.zeros((1, 64, 64, 3), np.uint8), [scene, scene])
