"""The limits of files from elsewhere at their ends: what is still valid, and what one more is refused."""

import json

import pytest

from diffusion.io import limits


@pytest.mark.parametrize("number, words", [
    (0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (2**20 - 1, "1024 KiB"),
    (2**20, "1 MiB"), (3 * 2**30, "3 GiB"), (2**40, "1 TiB"), (2**50, "1 PiB"), (2**60, "1 EiB"), (2**71, "2048 EiB"),
])  # fmt: skip
def test_a_number_of_bytes_is_said_in_the_largest_unit_that_it_fills(number, words):
    assert limits.size(number) == words


def test_numbers_beyond_any_float_are_said():
    assert limits.size(2**5000) == limits.size(2**1000)


def test_a_shape_has_at_most_64_sides_of_numbers_up_to_2_to_the_128():
    assert limits.array_bytes("a", (2, 3), 4) == 24 and limits.array_bytes("a", [], 8) == 8
    assert limits.array_bytes("a", (1,) * 64, 2) == 2 and limits.array_bytes("a", (0, 2**128), 4) == 0
    with pytest.raises(limits.Refused, match="a declares a shape with 65 sides"):
        limits.array_bytes("a", (1,) * 65, 2)
    for side, shown in ((2**128 + 1, r"beyond 2\^128"), (-1, "-1"), (True, "a bool"), (1.0, "a float"), ("1", "a str")):
        with pytest.raises(limits.Refused, match=f"whose side 1 is {shown}"):
            limits.array_bytes("a", (1, side), 2)
    with pytest.raises(limits.Refused, match="a declares an int as its shape"):
        limits.array_bytes("a", 3, 2)


def test_what_fills_the_memory_fits_and_a_byte_more_does_not(monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: 2048)
    limits.fits("a", 2048)
    with pytest.raises(limits.Refused, match=r"a declares 2\.001 KiB, and this machine has 2 KiB of memory"):
        limits.fits("a", 2049)


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\0"])
def test_names_that_lead_out_are_refused(name):
    limits.inside("it", ["a", "a/b.c", "..a"])
    with pytest.raises(limits.Refused, match=r"it holds the name .*, which leads out of its folder"):
        limits.inside("it", ["a", name])


@pytest.mark.parametrize("kind", ["[]", "{}"])
def test_json_is_nested_64_deep_and_no_deeper(kind):
    """A number is as deep as its list or table."""
    nested = lambda depth: ("[" * depth + "1" + "]" * depth) if kind == "[]" else ('{"a":' * depth + "1" + "}" * depth)
    assert limits.parse_json(nested(63), "a") == json.loads(nested(63))
    for depth in (64, 65, 100_000):
        with pytest.raises(limits.Refused, match="a is not valid JSON"):
            limits.parse_json(nested(depth), "a")


def test_a_field_that_occurs_twice_has_one_value():
    assert limits.parse_json('{"a": 1, "b": 2, "a": 1}', "it") == {"a": 1, "b": 2}
    with pytest.raises(limits.Refused, match="the field 'a' occurs twice, with different values"):
        limits.parse_json('{"b": {"a": 1, "a": 2}}', "it")


def test_messages_are_cut_and_on_one_line():
    assert limits.reason(ValueError("a\n  b")) == "a b" and limits.reason(KeyError()) == "KeyError"
    assert limits.reason(ValueError("x" * 201)) == "x" * 200
    assert limits.short("x" * 98) == repr("x" * 98) and limits.short("x" * 99) == f"{repr('x' * 99)[:100]} ..."
    assert limits.short({"a": (1, "b")}) == '{"a": [1, "b"]}'
    assert [limits.kind(value) for value in (1, [], "a", {}, 1j)] == [
        "an int",
        "a list",
        "a str",
        "a dict",
        "a complex",
    ]
