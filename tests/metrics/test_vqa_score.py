"""VQAScore beside an answerer whose probabilities are known."""

import numpy as np
import pytest

from diffusion.metrics import vqa_score
from diffusion.metrics.prompt_following.readers import ReaderError

PICTURES = [np.full((2, 3, 3), value, np.uint8) for value in (0, 51, 255)]


def brightness(pictures, questions, answers):
    """Says "Yes" with a probability of half the brightness, and half of it more where it is asked about the sun."""
    assert all(answer == "Yes" for answer in answers)
    sun = ["the sun" in question for question in questions]
    with np.errstate(divide="ignore"):
        return np.log([picture.mean() / 510 + 0.5 * own for picture, own in zip(pictures, sun)])


def test_it_is_the_probability_of_the_answer():
    asked = []

    def answerer(pictures, questions, answers):
        asked.extend(questions)
        assert answers == ["Yes"] * len(questions)
        return brightness(pictures, questions, answers)

    found = vqa_score.vqa_score(answerer, PICTURES, ["a cat", "the sun", 'braces {0} and "quotes"'])
    np.testing.assert_allclose(found, [0, 0.6, 0.5], rtol=1e-15)
    assert asked[0] == 'Does this figure show "a cat"? Please answer yes or no.'
    assert asked[2] == 'Does this figure show "braces {0} and "quotes""? Please answer yes or no.'
    assert vqa_score.log_probabilities(brightness, PICTURES[:1], ["a cat"])[0] == -np.inf


def test_another_question_and_answer():
    no = lambda pictures, questions, answers: np.log([0.25 if questions == ["Is it a cat?"] else 1.0] * len(answers))
    assert vqa_score.vqa_score(no, PICTURES[:1], ["a cat"], "Is it {}?", "No") == 0.25


@pytest.mark.parametrize(
    ("answerer", "words"),
    [
        (lambda *given: np.zeros((3, 1)), r"shape \[3, 1\] for 3 questions"),
        (lambda *given: np.array([-1, 0.5, -2]), r"returned 0\.5\. Valid: logarithms of probabilities, at most 0"),
        (lambda *given: np.array([-1, np.nan, -2]), "returned nan"),
    ],
)
def test_answers_that_are_no_logarithms_are_refused(answerer, words):
    with pytest.raises(ReaderError, match=words):
        vqa_score.vqa_score(answerer, PICTURES, ["a", "b", "c"])


def test_bad_input():
    with pytest.raises(ValueError, match="3 pictures and 1 texts"):
        vqa_score.vqa_score(brightness, PICTURES, ["a"])
    with pytest.raises(ValueError, match=r"question='Is it a cat\?' must"):
        vqa_score.vqa_score(brightness, PICTURES[:1], ["a"], "Is it a cat?")
