"""Brackets in prompts, against the examples that AUTOMATIC1111 publishes beside its parser, and by hand."""

import pytest

from diffusion.text import parse

EXAMPLES = {  # the first six are theirs, of modules/prompt_parser.py
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "((a [[b": [("a ", 1.21), ("b", 1.0)],  # each bracket that stays open counts
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1),
        ("sky", 1.4641), (".", 1.1),
    ],
    "": [("", 1.0)],
    "[word]": [("word", 1 / 1.1)],
    "closed) nothing] at: 4:3": [("closed) nothing] at: 4:3", 1.0)],
    "(a:1..2)": [("a:1..2", 1.1)],
    "(a: .5 ) [[b]": [("a", 0.5), (" ", 1.0), ("b", 1 / 1.21)],
    r"back\slash \\ (a\))": [("backslash \\ ", 1.0), ("a)", 1.1)],
    "(two\nlines:-1)": [("two\nlines", -1.0)],
}  # fmt: skip


@pytest.mark.parametrize("prompt", EXAMPLES)
def test_weights_are_those_that_are_written(prompt):
    found = parse(prompt)
    expected = EXAMPLES[prompt]
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


def test_a_long_number_that_is_no_weight_takes_the_time_of_its_length():
    """It took the square of its digits, and as many never ended."""
    text = "(a:" + "1" * 10**6 + "x)"
    assert "".join(part for part, _ in parse(text)) == text[1:-1]
