"""Words that are read letter by letter: every drawn one is read, and a wrong, broken or absent letter is seen."""

import string

import numpy as np
import pytest

from diffusion.data.shapes import drawing, scenes
from examples.text import drawn_words


def drawn(word, colour="blue", row=0):
    scene = scenes.Scene("word", "plain", colour, count=0, word=word)
    return drawing.draw(scene, scenes.Lot(5, 0, row))


@pytest.mark.extended
def test_every_word_of_the_dataset_and_any_letters_are_read():
    random = np.random.default_rng(0)
    others = ["".join(random.choice(list(string.ascii_lowercase), length)) for length in (3, 4) for _ in range(30)]
    for row, word in enumerate([*scenes.WORDS, *others]):
        reading = drawn_words.read(drawn(word, scenes.COLOURS[row % 8], row))
        assert reading.word == word and reading.overlap == 1


def test_noise_below_half_of_the_colour_changes_no_letter():
    noise = np.random.default_rng(1).integers(-25, 26, (64, 64, 3))
    picture = np.clip(drawn("ship").astype(int) + noise, 0, 255).astype(np.uint8)
    assert drawn_words.read(picture).word == "ship"


def test_a_missing_letter_and_an_empty_picture_are_no_word():
    picture = drawn("wolf")
    paper = picture[0, 0]
    picture[:, 44:56] = paper
    assert drawn_words.read(picture).word != "wolf"
    assert drawn_words.read(picture).overlap < 1
    assert drawn_words.read(np.full((64, 64, 3), 240, np.uint8)).overlap == 0


def test_what_stands_beside_a_word_lessens_its_overlap():
    """By the pixels of the word among all that are drawn."""
    picture = drawn("wolf")
    pixels = (np.abs(picture.astype(int) - picture[0, 0]).max(-1) > 60).sum()
    picture[2:7, 3:9] = drawing.PALETTE["blue"]
    assert drawn_words.read(picture) == ("wolf", pytest.approx(pixels / (pixels + 30)))


def test_pictures_of_one_caption_are_no_independent_ones():
    captions = ['the word "cat"', 'the word "sun"', *['the word "dog" in green'] * 2]
    pictures = np.stack([drawn("cat"), drawn("sun"), drawn("dog", "green"), drawn("dog", "blue", 1)])
    score = drawn_words.score_of(captions, pictures)
    assert {name: (share["prompts"], share["count"]) for name, share in score.items()} == {
        "word": (3, 4),
        "word_colour": (1, 2),
    }


def test_the_score_counts_words_and_their_colours():
    captions = ['the word "cat" in red', 'the word "cat"', 'the word "dog" in green', "a red star"]
    pictures = np.stack([drawn("cat", "red"), drawn("cot", "red"), drawn("dog", "blue"), drawn("cat")])
    score = drawn_words.score_of(captions, pictures)
    assert (score["word"]["share"], score["word"]["count"]) == (pytest.approx(2 / 3), 3)
    assert (score["word_colour"]["share"], score["word_colour"]["count"]) == (0.5, 2)
    assert drawn_words.score_of(captions[3:], pictures[3:]) == {}
