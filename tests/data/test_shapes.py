"""The bundled shapes: the same pictures each time, captions that agree with pixels, and nothing withheld in train."""

import colorsys
import hashlib
import math
from collections import Counter

import numpy as np
import pytest
import scipy.ndimage

from diffusion.data import catalog, shapes, sources
from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import NONE, Scene

# Hues in degrees of each colour's name, written down by eye and not from the palette.
HUES = {
    "red": (-12, 10),
    "orange": (14, 38),
    "yellow": (40, 58),
    "green": (100, 155),
    "cyan": (175, 200),
    "blue": (215, 245),
    "purple": (260, 290),
    "pink": (315, 345),
}


@pytest.fixture(scope="module")
def drawn():
    """(picture, caption, scene) of 600 training pictures."""
    return [shapes.example("train", number) for number in range(600)]


def parts(image):
    """(name of the colour, its pixels Bool [64, 64]) of each connected part that is not paper."""
    paper = np.median(image.reshape(-1, 3), axis=0)
    strong = np.abs(image - paper).max(-1) > 60
    labels, number = scipy.ndimage.label(strong, np.ones((3, 3)))
    found = []
    for part in range(1, number + 1):
        mask = labels == part
        if mask.sum() >= 8:
            red, green, blue = np.median(image[mask], axis=0) / 255
            hue = colorsys.rgb_to_hsv(red, green, blue)[0] * 360
            (name,) = [name for name, (low, high) in HUES.items() if low <= hue <= high or low <= hue - 360 <= high]
            found.append((name, mask))
    return found


def middle(mask):
    """Of the box around a part."""
    y, x = np.nonzero(mask)
    return (x.min() + x.max() + 1) / 2, (y.min() + y.max() + 1) / 2


def test_a_picture_is_a_function_of_seed_split_and_number(drawn):
    image, caption, scene = shapes.example("train", 7)
    np.testing.assert_array_equal(image, drawn[7][0])
    assert (caption, scene) == drawn[7][1:]
    others = [shapes.example("train", 7, seed=1), shapes.example("test", 7), drawn[8]]
    assert all(not np.array_equal(image, other[0]) for other in others)


def test_what_pictures_show_never_changes():
    """A frozen number, on purpose: figures on the test pictures compare only as long as these are the same."""
    examples = [shapes.example("test", number)[1:] for number in range(50)]
    text = "; ".join(f"{caption} {' '.join(map(str, scene))}" for caption, scene in examples)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "e4e01ea7b086c32e"


@pytest.mark.parametrize(
    "split, withheld", [("train", False), ("validation", False), ("test", False), ("withheld", True)]
)
def test_only_the_withheld_split_has_what_is_withheld(split, withheld):
    for number in range(12):
        scene = shapes.example(split, number)[2]
        pairs = {(scene.colour, scene.shape), (scene.second_colour, scene.second_shape)}
        assert bool(pairs & scenes.WITHHELD or scene.word in scenes.WITHHELD_WORDS) == withheld


def test_one_object_is_where_and_as_large_as_its_caption_says(drawn):
    ones = [(image, scene) for image, _, scene in drawn if scene.kind == "one" and scene.style == "plain"]
    assert len(ones) > 100
    columns = {"left": 0, "right": 2}
    rows = {"top": 0, "bottom": 2}
    widths = {"small": (8, 17), "medium": (14, 23), "large": (21, 32)}
    for image, scene in ones:
        ((colour, mask),) = parts(image)
        assert colour == scene.colour
        x, y = middle(mask)
        thirds = [sum(names.get(word, 1) - 1 for word in scene.position.split()) + 1 for names in (columns, rows)]
        assert np.searchsorted((25.25, 38.75), (x, y)).tolist() == thirds, scene
        high, wide = (np.ptp(np.nonzero(mask)[axis]) + 1 for axis in (0, 1))
        assert widths[scene.size][0] <= max(high, wide) <= widths[scene.size][1], (scene, high, wide)


def test_several_objects_are_as_many_as_the_caption_says(drawn):
    several = [(image, scene) for image, _, scene in drawn if scene.kind == "several" and scene.style == "plain"]
    assert {scene.count for _, scene in several} == {2, 3, 4, 5}
    for image, scene in several:
        assert [colour for colour, _ in parts(image)] == [scene.colour] * scene.count


def test_two_objects_are_in_the_relation_that_the_caption_says(drawn):
    pairs = [(image, scene) for image, _, scene in drawn if scene.kind == "pair" and scene.style == "plain"]
    assert {scene.relation for _, scene in pairs} == set(scenes.RELATIONS)
    for image, scene in pairs:
        found = {colour: middle(mask) for colour, mask in parts(image)}
        assert found.keys() == {scene.colour, scene.second_colour}
        (x, y), (other_x, other_y) = found[scene.colour], found[scene.second_colour]
        seen = {"left of": other_x - x, "right of": x - other_x, "above": other_y - y, "below": y - other_y}
        assert max(seen, key=seen.get) == scene.relation and seen[scene.relation] > 20


def test_the_nearest_hue_is_that_of_a_tint_and_of_a_shade():
    palette = np.array(list(drawing.PALETTE.values()), float)
    assert tuple(drawing.PALETTE) == scenes.COLOURS
    for share in (1.0, 0.6, 0.3):  # towards white, and towards black
        assert drawing.nearest_hue(share * palette + (1 - share) * 255).tolist() == list(range(8))
        assert drawing.nearest_hue(share * palette[:, None]).tolist() == [[i] for i in range(8)]


@pytest.mark.parametrize(
    "shape, area",
    [
        ("circle", math.pi * 0.95**2),
        ("square", 1.68**2),
        ("diamond", 2 * 0.85 * 1.15),
        ("cross", 2 * 2 * 0.72 - 0.72**2),
        ("star", 5 * 1.15 * 0.5 * math.sin(math.pi / 5)),
    ],
)
def test_shapes_cover_the_area_of_the_figure(shape, area):
    """A pixel at the edge is covered in part: the sum of the covers is the area of the figure in geometry."""
    x = np.arange(64) + 0.5 - 32.3
    y = np.arange(64)[:, None] + 0.5 - 31.8
    cover = np.clip(0.5 - drawing.DISTANCES[shape](x, y, 14.0), 0, 1)
    assert cover.sum() == pytest.approx(area * 14**2, rel=0.02)


def test_neon_is_dark_and_outlines_are_hollow(drawn):
    for image, _, scene in drawn:
        if scene.kind == "one" and scene.shape in ("circle", "square") and scene.size == "large":
            paper = np.median(image.reshape(-1, 3), axis=0)
            assert (paper.mean() < 60) == (scene.style == "neon")
            y, x = (int(drawing.PLACES[third]) for third in divmod(tuple(scenes.POSITIONS).index(scene.position), 3))
            hollow = np.abs(image[y, x] - paper).max() < 30
            assert hollow == (scene.style != "plain"), scene


def test_words_are_pillows_letters():
    from PIL import Image, ImageDraw, ImageFont

    found = next(shapes.example("train", n) for n in range(1000) if shapes.example("train", n)[2].kind == "word")
    image, _, scene = found
    ((colour, _), *_) = parts(image)
    assert colour == scene.colour
    expected = Image.new("1", (64, 32))
    ImageDraw.Draw(expected).text((2, 2), scene.word, fill=1, font=ImageFont.load_default_imagefont())
    ink = np.abs(image.astype(int) - np.median(image.reshape(-1, 3), axis=0)).max(-1) > 60
    assert ink.sum() == 4 * np.asarray(expected).sum()  # each dot of a letter is 2 x 2 pixels


@pytest.mark.extended
def test_no_training_picture_has_what_is_withheld():
    seen = Counter()
    kept_back = Counter()
    for number in range(900):
        for split, shown in (("train", seen), ("withheld", kept_back)):
            scene = shapes.example(split, number)[2]
            shown.update({(scene.colour, scene.shape), (scene.second_colour, scene.second_shape), scene.word})
    forbidden = set(scenes.WITHHELD) | set(scenes.WITHHELD_WORDS)
    assert not forbidden & seen.keys()
    assert forbidden <= kept_back.keys()
    pairs = [pair for pair in seen if isinstance(pair, tuple) and NONE not in pair]
    assert len(pairs) == 64 - 8  # all others are there
    assert {colour for colour, _ in scenes.WITHHELD} == set(scenes.COLOURS)
    assert {shape for _, shape in scenes.WITHHELD} == set(scenes.SHAPES)


def test_attributes_are_balanced():
    drawn = [scenes.draw(scenes.Lot(0, 0, number)) for number in range(2000)]
    kinds = Counter(scene.kind for scene in drawn)
    ones = [scene for scene in drawn if scene.kind == "one"]
    for name, values in (
        ("colour", scenes.COLOURS),
        ("shape", scenes.SHAPES),
        ("size", scenes.SIZES),
        ("position", tuple(scenes.POSITIONS)),
    ):
        counts = Counter(getattr(scene, name) for scene in ones)
        expected = len(ones) / len(values)
        assert all(abs(counts[value] - expected) < 5 * math.sqrt(expected) for value in values), (name, counts)
    assert set(kinds) == set(scenes.KINDS)
    assert abs(kinds["several"] - 0.18 * 2000) < 0.2 * 0.18 * 2000


@pytest.mark.extended
def test_each_split_has_its_shares_of_kinds_and_styles():
    """0.42 and 0.26 of pairs, 0.22 and 0.1 of neon, but for words, which are all plain; 5 standard deviations."""
    for split, pairs, neon in (("train", 0.42, 0.22), ("test", 0.26, 0.1)):
        shown = [shapes.example(split, number)[2] for number in range(1000)]
        for share, expected in (
            (np.mean([scene.kind == "pair" for scene in shown]), pairs),
            (np.mean([scene.style == "neon" for scene in shown if scene.kind != "word"]), neon),
        ):
            assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / 900), split


def test_a_caption_says_what_the_picture_shows_or_leaves_it_out(drawn):
    left_out = Counter()
    for _, caption, scene in drawn:
        stated = scenes.parsed(caption)
        for name in Scene._fields:
            value = getattr(stated, name)
            if value == NONE and getattr(scene, name) != NONE:
                left_out[name] += 1
            else:
                assert value == getattr(scene, name), (caption, scene, name)
    assert left_out.keys() == {"colour", "shape", "size", "position", "relation"}


@pytest.mark.parametrize("scene, text", [
    (Scene("one", "plain", "orange", "star"), "an orange star"),
    (Scene("one", "neon", NONE, "heart", "small", "top left"), "a small heart in the top left corner, neon"),
    (Scene("several", "plain", "red", "cross", count=3), "three red crosses"),
    (Scene("pair", "outlined", "red", "moon", count=2, relation="left of", second_colour="orange",
           second_shape="cross"), "a red moon left of an orange cross, outlined"),
    (Scene("pair", "plain", "blue", "circle", count=2, second_colour="pink", second_shape="star"),
     "a blue circle and a pink star"),
    (Scene("word", "plain", NONE, count=0, word="cat"), 'the word "cat"'),
    (Scene("one", "plain", "red"), "a red shape"),
])  # fmt: skip
def test_phrases_and_their_scenes(scene, text):
    assert scenes.phrase(scene) == text
    assert scenes.parsed(text) == scene


@pytest.mark.parametrize("text", [
    "a red dog", "seven red circles", "a red circle, baroque", "", "a big circle", 'the word "cat", baroque',
    'the word "cat", neon',
])  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="is not one of"):
        scenes.parsed(text)


@pytest.mark.parametrize("text, two", [
    ("a red blue circle", "two colours"), ("a small large circle", "two sizes"),
    ("a red circle left of a pink pink star", "two colours"),
])  # fmt: skip
def test_an_object_has_one_colour_and_one_size(text, two):
    with pytest.raises(ValueError, match=two):
        scenes.parsed(text)


@pytest.mark.parametrize("text", ["a circle and a star", "a shape left of a blue star", "a red shape and a shape"])
def test_two_objects_of_open_attributes_are_completed_and_drawn(text):
    for number in range(20):
        lot = scenes.Lot(0, 0, number)
        stated = scenes.parsed(text)
        scene = scenes.completed(stated, lot)
        assert {scene.colour, scene.second_colour} < set(scenes.COLOURS) and scene.colour != scene.second_colour
        assert {scene.shape, scene.second_shape} < set(scenes.SHAPES) and scene.shape != scene.second_shape
        for name, value in stated._asdict().items():
            assert value in (NONE, getattr(scene, name))
        assert drawing.draw(scene, lot).shape == (64, 64, 3)


def test_the_dataset_holds_the_pictures_the_captions_and_the_attributes(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path))
    monkeypatch.setattr(shapes, "SIZES", {"train": 5, "validation": 2, "test": 2, "withheld": 3})
    records, spec = sources.open_source("shapes", "withheld")
    assert spec == sources.DataSpec("shapes", "withheld", (64, 64, 3), 0, 3, "2.1.0")
    expected = [shapes.example("withheld", number) for number in range(3)]
    for number, (image, _, _) in enumerate(expected):
        np.testing.assert_array_equal(records[number]["image"], image)
    assert sources.column("shapes", "withheld", "caption") == [caption for _, caption, _ in expected]
    colours = sources.column("shapes", "withheld", "colour")
    assert [scenes.COLOURS[colour] for colour in colours] == [scene.colour for _, _, scene in expected]
    with pytest.raises(
        ValueError, match=r"no feature 'captions' .* its features are caption \(Text\), colour \(ClassLabel\)"
    ):
        sources.column("shapes", "withheld", "captions")
    assert "shapes" in catalog.BUNDLED


def test_a_caption_leaves_out_the_colour_or_the_shape_and_never_both():
    """Each is left out in 8 % of captions, by lots of its own."""
    scene = scenes.Scene("one", "plain", "red", "circle", "small", "top")
    said = [scenes.parsed(scenes.caption(scene, scenes.Lot(0, 5, number))) for number in range(2000)]
    left_out = [(one.colour, one.shape).count(scenes.NONE) for one in said]
    assert set(left_out) == {0, 1} and 0.1 < np.mean(left_out) < 0.2
