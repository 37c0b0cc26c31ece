"""Ends of ranges belong to them, and the default limits are those that messages state."""

import pytest

from diffusion.io import limits, schema


@pytest.mark.parametrize(
    "valid, inside, outside, words",
    [
        (schema.integer(), (0, 2**20), (-1, 2**20 + 1, 1.0, True), "at least 0 and at most 1048576"),
        (schema.number(), (-1e12, 0, 1e12), (-1.1e12, 1.1e12, float("nan"), True), r"from -1e\+12 to 1e\+12"),
        (schema.text(), ("", "a" * 1000), ("a" * 1001, "\ud800", 1), "at most 1000 letters"),
        (schema.several(schema.integer(1, 3), 2, 3), ([1, 3], (1, 2, 3)), ([1], [1] * 4, [1, 4], 1), "2 to 3, each"),
        (schema.table(schema.FLAG, 1), ({}, {"a": True}), ({"a": 1}, {"a": True, "b": True}, {1: True}), "at most 1"),
        (schema.like(5), (1, 5), (0, 5.0), "at least 1 and"),
        (schema.like((2, 3)), ([], [0, 7]), ([-1], [1.5]), "0 to 1000, each a whole number"),
    ],
)
def test_the_ends_of_a_range_are_valid_and_nothing_beyond(valid, inside, outside, words):
    schema.check({"field": valid}, {"other": None}, "a table")
    for value in inside:
        schema.check({"field": valid}, {"field": value}, "a table")
    for value in outside:
        with pytest.raises(limits.Refused, match=rf"^a table: field = .*\. Valid: .*{words}"):
            schema.check({"field": valid}, {"field": value}, "a table")


def test_a_plain_value_is_described_from_null_to_texts():
    assert schema.PLAIN.words.startswith("null or true or false or a number from -1e+12 to 1e+12 or a text of at most")
