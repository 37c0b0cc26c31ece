"""The range of every field of a config by itself: what its message calls valid is what it takes, at each end."""

import math
import re

import pytest

from diffusion.metrics import protocols
from diffusion.recipe import fields
from diffusion.recipe.defaults import defaults
from diffusion.recipe.values import plain

FIELDS = list(fields.RANGES)
INTERVAL = re.compile(r"in (?P<left>[\[(])(?P<low>[^,]+), (?P<high>[^\])]+)(?P<right>[\])])(;.*)?")
CHOICE = re.compile(r'("\w+")( or "\w+")+')
AT_LEAST = re.compile(r"(at least|above) ([0-9]+)(;.*)?")
DEFAULTS = plain(defaults())
# Those whose words are no interval and no list of names: what they take and what they refuse.
BY_NAME = {
    "init_from.include": ([".*", "^params/", ""], ["(", "[a", "*"]),
    "data.name": (["digits"], [""]),
    "data.split": (["train"], [""]),
    "data.shape": ([(1,), (32, 32, 4)], [(), (0,), (32, 0), (32, 1.5), (4, -1), (True, 2)]),
    "evaluate.features": ([(), ("pixels",), ("pixels", "inception")], [(1,), ("pixels", None)]),
    "mesh": ([-1, 1, 8], [0, -2]),
    "folder": (["", "runs/a", "/data/a b"], ["gs://bucket/a", "s3://bucket/a"]),
}


def default(field: str):
    value = DEFAULTS
    for name in field.split("."):
        value = value[name]
    return value


def number(text: str) -> float:
    """A number as messages write it: "10^6", "0.75"."""
    base, _, power = text.partition("^")
    return float(base) ** float(power or 1)


def takes(field: str, value) -> bool:
    return bool(fields.RANGES[field][0](value))


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_takes_what_its_words_call_valid_and_nothing_beyond(field):
    valid, words = fields.RANGES[field]
    whole = isinstance(default(field), int)
    if found := INTERVAL.fullmatch(words):
        low, high = number(found["low"]), number(found["high"])
        inside = 1 if whole else (high - low) / 1000
        rounding = 0 if whole else 5e-5 if len(found["high"]) > 4 else 0.0  # of an end that the words round
        assert takes(field, low) and not takes(field, low - inside) and found["left"] == "["
        assert takes(field, high - inside) and not takes(field, high + inside)
        if not rounding:
            assert takes(field, high) == (found["right"] == "]")
    elif found := AT_LEAST.fullmatch(words):
        low = number(found[2])
        assert takes(field, low) == (found[1] == "at least")
        beyond = 1 if whole else 1e-6
        assert takes(field, low + beyond) and not takes(field, low - beyond)
    elif CHOICE.fullmatch(words) or words.startswith("one of "):
        names = re.findall(r'"(\w+)"', words) or words.removeprefix("one of ").split(", ")
        assert default(field) in names and all(takes(field, name) for name in names)
        assert not takes(field, "") and not takes(field, names[0] + "2") and not takes(field, ", ".join(names))
    else:
        kind = "mesh" if valid is fields.DEVICES[0] else "folder" if field in fields.FOLDERS else field
        taken, refused = BY_NAME[kind]
        assert [value for value in taken if not takes(field, value)] == []
        assert [value for value in refused if takes(field, value)] == []


def test_the_widest_average_and_every_protocol_are_valid():
    """The message rounds the first and lists the second."""
    assert takes("ema.sigma_rel", 12**-0.5) and not takes("ema.sigma_rel", math.nextafter(12**-0.5, 1))
    assert all(takes("evaluate.protocol", name) for name in protocols.PROTOCOLS)


@pytest.mark.parametrize("field", FIELDS)
def test_the_default_of_a_field_is_valid(field):
    if default(field) is not None:
        assert takes(field, default(field))


@pytest.mark.parametrize(
    "value, expected",
    [((0, 1), True), ((0.5, 0.75), True), ((0, 0), False), ((1, 0.5), False), ((-0.1, 1), False), ((0, 1, 2), False),
     ((1,), False), (("a", "b"), False), ((0, math.inf), False), ((math.nan, 1), False)],
)  # fmt: skip
def test_a_pair_is_two_times_in_order(value, expected):
    assert fields.pair(value) is expected
