"""GenEval's rules on detections made by hand, whose right answers are read off the published rules, not computed."""

import json

import numpy as np
import pytest

from diffusion.metrics.prompt_following import geneval
from diffusion.metrics.prompt_following.geneval import Rules
from diffusion.metrics.prompt_following.readers import Detection, Embedder, PromptsError, overlap

CAT = Detection("cat", 0.9, (0, 0, 10, 10))
DOG = Detection("dog", 0.8, (30, 0, 40, 10))
ONE = {"class": "cat", "count": 1}
TWO = {"class": "cat", "count": 2}
LEFT = {"class": "dog", "count": 1, "position": ["right of", 0]}


def right(content, detections, colours=None):
    """Whether a picture with these objects is right, by the colours of each class."""
    prompt = geneval.parse({"tag": "single_object", "prompt": "p", **content}, "here")
    of = lambda label, objects: (colours or {})[label][: len(objects)]
    return geneval.judged(prompt, geneval.counted_objects(detections, prompt.tag), of)[0]


def cats(*scores):
    return [Detection("cat", score, (20 * i, 0, 20 * i + 10, 10)) for i, score in enumerate(scores)]


@pytest.mark.parametrize(
    "content, detections, answer",
    [({"include": [ONE]}, [CAT], True), ({"include": [ONE]}, [DOG], False), ({"include": [ONE]}, [], False),
     ({"include": [ONE]}, cats(0.31), True), ({"include": [ONE]}, cats(0.3), False),  # more than 0.3
     ({"include": [ONE, {"class": "dog", "count": 1}]}, [CAT, DOG], True),
     ({"include": [ONE, {"class": "dog", "count": 1}]}, [CAT], False),
     ({"include": [TWO]}, cats(0.9, 0.9, 0.9), True),  # at least two
     ({"include": [TWO], "exclude": [{"class": "cat", "count": 3}]}, cats(0.9, 0.9, 0.9), False),
     ({"include": [TWO], "exclude": [{"class": "cat", "count": 3}]}, cats(0.9, 0.9), True),
     ({"tag": "counting", "include": [TWO]}, cats(0.95, 0.9), False),  # sure to more than 0.9, where it is counted
     ({"tag": "counting", "include": [TWO]}, cats(0.95, 0.91), True),
     ({"include": [ONE, LEFT]}, [CAT, DOG], True),
     ({"include": [ONE, LEFT]}, [DOG, CAT._replace(box=(60, 0, 70, 10))], False),
     ({"include": [TWO, LEFT]}, [CAT, DOG], False)],  # of whom it is to be on the right is not there
)  # fmt: skip
def test_objects_counts_and_places(content, detections, answer):
    assert right(content, detections) is answer


def test_colours_are_those_of_the_surest_objects():
    red = {"class": "cat", "count": 1, "color": "red"}
    assert right({"include": [red]}, cats(0.9, 0.5), {"cat": ["red", "blue"]})
    assert not right({"include": [red]}, cats(0.9, 0.5), {"cat": ["blue", "red"]})  # the surer one is blue
    both = [red, {"class": "dog", "count": 1, "color": "blue"}]
    assert right({"include": both}, [CAT, DOG], {"cat": ["red"], "dog": ["blue"]})
    assert not right({"include": both}, [CAT, DOG], {"cat": ["blue"], "dog": ["red"]})  # each has the other's
    assert not right({"include": [red | {"count": 2}]}, cats(0.9, 0.8, 0.7), {"cat": ["red", "blue", "red"]})


@pytest.mark.parametrize(
    "box, holds",
    [((12, 0, 22, 10), {"left of"}),  # 12 apart, less 0.1 (10 + 10): 10 / 12 is more than a half
     ((2, 0, 12, 10), set()),  # 2 apart, and 2 are taken off
     ((12, 12, 22, 22), {"left of", "above"}),  # 10 / 17 along both sides
     ((-12, 4, -2, 14), {"right of"}), ((0, -30, 10, -20), {"below"}),
     ((3, 0, 13, 10), set()),  # 1 / 3 is left of the offset, less than a half
     ((60, 0, 260, 10), {"left of"})],  # centres 155 apart, 0.1 (10 + 200) = 21
)  # fmt: skip
def test_relations(box, holds):
    with np.errstate(all="raise"):
        assert geneval.relations((0, 0, 10, 10), box) == holds


def test_other_rules_than_the_published_ones_hold_throughout():
    rules = Rules(threshold=0.5, counting_threshold=0.6, margin=0.31)
    some = cats(0.7, 0.55, 0.4)
    count = lambda tag, rules=rules: [each.score for each in geneval.counted_objects(some, tag, rules)["cat"]]
    assert count("single_object") == [0.7, 0.55] and count("counting") == [0.7]
    assert count("single_object", rules._replace(most=1)) == [0.7]
    prompt = geneval.parse({"tag": "position", "prompt": "p", "include": [ONE, LEFT]}, "here")
    objects = {"cat": [CAT], "dog": [DOG._replace(box=(12, 0, 22, 10))]}
    assert geneval.judged(prompt, objects, None)[0]
    assert not geneval.judged(prompt, objects, None, rules)[0]


def test_a_relation_has_the_chosen_margin():
    """12 apart, less margin (10 + 10), over 12 is a half at 0.3."""
    assert geneval.relations((0, 0, 10, 10), (12, 0, 22, 10), margin=0.29) == {"left of"}
    assert geneval.relations((0, 0, 10, 10), (12, 0, 22, 10), margin=0.31) == set()


@pytest.mark.parametrize("x, y", [(20, 0), (-20, 0), (0, 20), (0, -20)])
def test_exactly_a_half_is_no_relation(x, y):
    """20 apart, less 0.5 (10 + 10), over 20 is a half; GenEval's code asks for more."""
    assert geneval.relations((0, 0, 10, 10), (x, y, x + 10, y + 10), margin=0.5) == set()
    assert len(geneval.relations((0, 0, 10, 10), (x, y, x + 10, y + 10), margin=0.499)) == 1


@pytest.mark.parametrize("box", [(0, 0, 10, 10), (-5, -5, 15, 15), (4, 2, 6, 8)])
def test_boxes_of_one_centre_have_no_relation(box):
    with np.errstate(all="raise"):
        assert geneval.relations((0, 0, 10, 10), box) == set()


def test_objects_that_count():
    many = [Detection("cat", 0.4 + i / 100, (0, 0, 1, 1)) for i in range(20)]
    found = geneval.counted_objects(many, "single_object")["cat"]
    assert [each.score for each in found] == pytest.approx([0.59 - i / 100 for i in range(16)])
    near = [CAT, CAT._replace(score=0.7, box=(0, 0, 10, 8)), DOG._replace(label="cat")]  # 99 of 121 pixels are both's
    assert len(geneval.counted_objects(near, "position")["cat"]) == 3  # the published rules drop none
    assert (
        len(geneval.counted_objects(near, "position", Rules(overlap=0.81))["cat"]) == 2
    )  # 0.8 of sides without their ends
    assert len(geneval.counted_objects(near, "position", Rules(overlap=0.82))["cat"]) == 3


@pytest.mark.parametrize(
    "other, share", [((5, 5, 14, 9), 25 / 125), ((5, 0, 9, 19), 50 / 150), ((9, 9, 9, 9), 1 / 100), ((10, 0, 19, 9), 0)]
)
def test_boxes_share_the_pixels_at_both_ends(other, share):
    """Beside a box of 10 x 10 pixels; in either order."""
    own = (0, 0, 9, 9)
    assert overlap(own, other, 1) == overlap(other, own, 1) == pytest.approx(share)


def test_a_crop_is_grey_around_the_mask():
    picture = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    mask = np.zeros((6, 5), bool)
    mask[2, 3] = True
    found = geneval.crop(picture, Detection("cat", 1.0, (1.6, 0.5, 4.4, 3.2), mask))
    assert found.shape == (3, 2, 3) and (found[2, 1] == picture[2, 3]).all()
    assert (np.delete(found.reshape(-1, 3), 5, axis=0) == 0x99).all()
    assert geneval.crop(picture, Detection("cat", 1.0, (9.0, 9.0, 9.0, 9.0))).shape == (1, 1, 3)


def test_the_colour_is_that_of_the_nearest_texts():
    """Texts of a colour have three directions; their mean counts, not the nearest of them."""
    axis = {colour: np.eye(10)[i] for i, colour in enumerate(geneval.COLOURS)}

    def texts(rows):
        assert "a photo of a red-colored fire hydrant" in rows and "a photo of a pink object" in rows
        found = [axis[next(colour for colour in geneval.COLOURS if f" {colour}" in row)] for row in rows]
        found[0] = axis["blue"] * 5  # "a photo of a red ..." points to blue, and weighs no more than the others
        return np.array(found)

    directions = {0: axis["pink"], 100: axis["blue"], 255: axis["red"] + 1.1 * axis["blue"]}
    pictures = lambda crops: np.array([directions[int(crop[0, 0, 0])] for crop in crops])
    picture = np.zeros((4, 12, 3), np.uint8)
    picture[:, :4], picture[:, 8:] = 255, 100
    objects = [Detection("fire hydrant", 1.0, (left, 0, left + 4, 4)) for left in (0, 4, 8)]
    # red: mean (2/3 red + 1/3 blue) of length 0.745: (2/3 + 1.1/3) / 0.745 = 1.39, or 1.03 of its own length; blue: 1.1
    assert geneval.colours(Embedder(pictures, texts), picture, "fire hydrant", objects) == ["red", "pink", "blue"]


@pytest.mark.parametrize(
    "line, message",
    [({"tag": "colours", "prompt": "a", "include": [ONE]}, "line 2: tag = 'colours'. Valid: single_object"),
     ({"tag": "counting", "prompt": "two cats"}, "line 2: the prompt 'two cats' cannot be answered"),
     ({"tag": "counting", "include": [ONE]}, "this is not a prompt of GenEval"),
     ({"tag": "counting", "prompt": "a", "include": [{"class": "cat"}]}, "count = None"),
     ({"tag": "colors", "prompt": "a", "include": [ONE | {"color": "cyan"}]}, "color = 'cyan'. Valid: red"),
     ({"tag": "position", "prompt": "a", "include": [LEFT]}, "position =.*the number of.*earlier clause")],
)  # fmt: skip
def test_prompts_without_their_answers_are_refused(tmp_path, line, message):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text(
        "\n".join(json.dumps(each) for each in ({"tag": "counting", "prompt": "a", "include": [ONE]}, line))
    )
    with pytest.raises(PromptsError, match=message):
        geneval.read(path)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((0.0, 0.0, 5.0, 4.0), slice(0, 4), slice(0, 5)),
        ((-3.0, -2.0, 2.0, 3.0), slice(0, 3), slice(0, 2)),  # begins outside
        ((1.4, 2.6, 3.6, 4.4), slice(3, 4), slice(1, 4)),  # rounded
        ((9.0, 9.0, 12.0, 12.0), slice(3, 4), slice(4, 5)),  # outside: the last pixel
        ((2.0, 1.0, 2.0, 1.0), slice(1, 2), slice(2, 3)),  # empty: one pixel
    ],
)
def test_a_crop_is_what_lies_in_the_box(box, rows, columns):
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(geneval.crop(picture, Detection("cat", 0.5, box, None)), picture[rows, columns])
