"""Where windows end, with a tokenizer whose ids are the letters of a text."""

import pytest

from diffusion.text import Tokenizer
from diffusion.text.long_prompts import BREAK, all_windows, first_window

LETTERS = Tokenizer(
    split=lambda text: ([ord(letter) for letter in text], lambda n: text[n:]), start=(1,), end=(2,), pad=0, length=32
)  # thirty letters fit


def read(windows):
    return ["".join(chr(token) for token, _ in row) for row in windows.rows]


@pytest.mark.parametrize("after, torn", [(0, False), (1, False), (19, False), (20, True), (29, True)])
def test_at_most_nineteen_tokens_after_a_comma_go_with_it(after, torn):
    """The comma and what follows it are the last twenty tokens that stable-diffusion-webui takes back."""
    row = "x" * (29 - after) + "," + "y" * after
    found = read(all_windows([(row + "z", 1.0)], LETTERS))
    assert found == ([row, "z"] if torn else [row[: 30 - after], "y" * after + "z"])


def test_the_last_of_several_commas_counts_and_one_that_does_not_fit_opens_the_next_window():
    assert read(all_windows([("x" * 15 + ",xx,xx" + "y" * 20, 1.0)], LETTERS)) == ["x" * 15 + ",xx,", "xx" + "y" * 20]
    assert read(all_windows([("x" * 20 + "," + "y" * 9 + ",z", 1.0)], LETTERS)) == ["x" * 20 + "," + "y" * 9, ",z"]


@pytest.mark.parametrize("length", [0, 29, 30])
def test_what_fits_is_one_window_with_nothing_cut(length):
    parts = [("x" * length, 2.0)]
    for windows in (all_windows(parts, LETTERS), first_window(parts, LETTERS)):
        assert windows == ([[(ord("x"), 2.0)] * length], "")


def test_the_first_window_is_cut_within_a_piece_or_between_two():
    parts = [("a" * 10, 1.0), ("b" * 20, 2.0), ("c" * 3, 3.0)]
    windows = first_window(parts, LETTERS)
    assert windows == ([[(ord("a"), 1.0)] * 10 + [(ord("b"), 2.0)] * 20], "ccc")
    assert first_window([("a" * 32, 1.0), ("b", 1.0)], LETTERS) == ([[(ord("a"), 1.0)] * 30], "aab")


def test_many_spaces_take_the_time_of_their_number():
    """They took its square, whether BREAK follows or not."""
    spaces = " " * 10**6
    assert BREAK.split(f"a{spaces}b") == [f"a{spaces}b"]
    assert BREAK.split(f"a{spaces}BREAK{spaces}b BREAK c") == ["a", "b", "c"]
