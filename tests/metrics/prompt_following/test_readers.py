"""Readers of other forms are refused by one sentence, and the mean over clusters has the error of its prompts."""

import json
import math

import numpy as np
import pytest

from diffusion.metrics.prompt_following import clustered, readers
from diffusion.metrics.prompt_following.readers import Detection, Embedder, Parse, ReaderError

PICTURE = np.zeros((4, 5, 3), np.uint8)
CAT = Detection("cat", 0.5, (0.0, 0, 2, 2), np.zeros((4, 5), bool))


@pytest.mark.parametrize(
    "answer",
    [None, [], [[CAT], [CAT]], ["cat"], [[("cat", 0.5, (0, 0, 1, 1), None)]], [[CAT._replace(score=50)]],
     [[CAT._replace(box=(0, 0, 1))]], [[CAT._replace(box=(2, 0, 1, 1))]], [[CAT._replace(mask=np.zeros((5, 4), bool))]],
     [[CAT._replace(mask=np.zeros((4, 5)))]], [[CAT._replace(label=3)]], [[CAT._replace(score=math.nan)]]],
)  # fmt: skip
def test_a_detector_that_returns_another_form(answer):
    with pytest.raises(ReaderError, match=r"the detector returned .*Valid: a list for each picture, of Detections"):
        readers.detected(lambda pictures: answer, [PICTURE])
    surest = [CAT, CAT._replace(score=np.float32(0.75), box=np.float32([0, 0, 2, 2]))]
    (found,) = readers.detected(lambda pictures: [surest], [PICTURE])
    assert json.dumps([each[:3] for each in found]) == (
        '[["cat", 0.75, [0.0, 0.0, 2.0, 2.0]], ["cat", 0.5, [0.0, 0.0, 2.0, 2.0]]]'
    )
    assert found[0].mask is CAT.mask


@pytest.mark.parametrize("box", [(2.0, 0.0, 2.0, 2.0), (0.0, 1.0, 2.0, 1.0)])
def test_a_box_without_a_width_or_a_height_is_one(box):
    (answer,) = readers.detected(lambda pictures: [[CAT._replace(box=box)]], [PICTURE])
    assert answer[0].box == box


@pytest.mark.parametrize(
    "answer",
    [
        "yes",
        ["yes"],
        [{}],
        [{"yes": 2.0}],
        [{"yes": "0.5"}],
        [{1: 0.5}],
        [{"yes": 0.5, "no": 2.0}],
        [{"yes": 0.5, 1: 0.5}],
    ],
)
def test_an_answerer_that_returns_another_form(answer):
    with pytest.raises(ReaderError, match=r"the answerer returned .*Valid: for each question a table \{answer"):
        readers.answered(lambda pictures, questions: answer, [PICTURE], ["is it?"])
    ends = {"yes": 0.0, "no": 1}
    assert readers.answered(lambda pictures, questions: [ends], [PICTURE], ["is it?"]) == [ends]


def test_an_embedder_and_a_grammar_that_return_another_form():
    rows = lambda value: Embedder(lambda _: value, lambda _: value)
    for value in (np.zeros((1, 3)), np.ones((2, 3)), np.ones(3), np.full((1, 3), np.inf), np.ones((1, 3), int)):
        with pytest.raises(ReaderError, match="the embedder returned"):
            readers.embedded_texts(rows(value), ["a"])
    found = readers.embedded_pictures(rows(np.array([[3.0, 4.0]], np.float32)), [PICTURE])
    np.testing.assert_allclose(found, [[0.6, 0.8]], rtol=1e-7)
    right = Parse((("cat", "NOUN"), ("red", "ADJ")), ("a red cat",))
    assert readers.parsed(lambda text: right, "a red cat") is right
    words = [(("cat", "NOUN", "cat"),), (("cat",),), (("cat", 1),), ("cat",)]
    for value in ("a cat", Parse((("cat", "NOUN"),), (1,)), *(Parse(pairs, ()) for pairs in words)):
        with pytest.raises(ReaderError, match=r"the grammar returned .*Valid: a Parse"):
            readers.parsed(lambda text, value=value: value, "a cat")


def test_the_error_is_that_of_prompts():
    """Four pictures of a prompt that are all alike are one draw; of single pictures it is the usual error."""
    values = np.random.default_rng(0).random(30)
    alike = clustered.mean(np.repeat(values, 4), np.repeat(np.arange(30), 4))
    assert alike.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(30))
    assert (alike.samples, alike.prompts) == (120, 30) and alike.value == pytest.approx(values.mean())
    assert math.isnan(clustered.mean([1.0, 0.0], ["a", "a"]).standard_error)
    parts = [clustered.mean([0.0, 1.0], "ab"), clustered.mean([0.0, 0.0, 1.0, 1.0], "abcd")]
    whole = clustered.mean_of_means(parts)
    assert whole.value == 0.5 and whole.standard_error == pytest.approx(np.sqrt(0.25 + 1 / 12) / 2)


def test_the_nearness_of_pixels_has_a_number_for_each():
    """Also for several pictures of their own sizes; whole numbers are taken, and those that are not finite refused."""
    pictures = [PICTURE, np.zeros((2, 3, 3), np.uint8)]
    maps = [np.arange(20, dtype=np.uint8).reshape(4, 5), np.ones((2, 3), np.float32)]
    found = readers.depths(lambda pictures: maps, pictures)
    assert [one.dtype for one in found] == [np.float64] * 2
    np.testing.assert_array_equal(found[0], maps[0])
    for wrong in (
        maps[::-1],
        [maps[0], np.full((2, 3), np.nan)],
        [maps[0], np.ones((2, 3), bool)],
        [maps[0][None]] * 2,
    ):
        with pytest.raises(ReaderError, match=r"the depth estimator returned .* \[.*, .*\]"):
            readers.depths(lambda pictures, wrong=wrong: wrong, pictures)


def test_a_share_has_the_interval_of_as_many_independent_pictures():
    """Three prompts of two pictures: by hand p = 1/2, s^2 = 3 / 2 (1 + 0 + 1) / 36, n = 3 / 2 (1 / 4) / s^2 = 4.5."""
    found = clustered.share([True, True, True, False, False, False], [*"aabbcc"])
    number, z = 4.5, 1.959963984540054
    half = z / (1 + z**2 / number) * math.sqrt(0.25 / number + z**2 / (4 * number**2))
    assert found["share"] == 0.5 and (found["count"], found["prompts"]) == (6, 3)
    assert found["interval"] == pytest.approx([0.5 - half, 0.5 + half], rel=1e-6)
    all_right = clustered.share([True] * 6, [*"aabbcc"])  # no error: as many as there are prompts
    assert all_right["interval"] == pytest.approx([3 / (3 + z**2), 1.0], rel=1e-6)
    alone = clustered.share([True, True], "aa")  # pictures of one prompt are as one picture
    assert alone["interval"] == pytest.approx([1 / (1 + z**2), 1.0], rel=1e-6)
