"""Valid values of the fields of a table from elsewhere: types and ranges, checked before any value is used.

    FIELDS = {"num_train_timesteps": integer(1, 10**5), "shift": number(1e-6, 1e6), "seed": optional(integer())}
    schema.check(FIELDS, opener.read_table(path), str(path))

A field that a schema does not name is not checked; the reader decides whether the table may have it.
"""

__all__ = ["Valid", "check", "either", "integer", "like", "number", "objection", "optional", "several", "table", "text"]

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffusion.io import limits
from diffusion.package import public

LARGEST = 2**20  # default limit of integers: vocabularies have 2^18 ids
FARTHEST = 1e12  # default limit of other numbers
LONGEST = 1000  # default limit of the length of texts and lists


class Valid(NamedTuple):
    """The values that a field may hold.

    Attributes:
        words: the description for messages: "a whole number from 1 to 512".
        holds: whether a value is of this kind.
    """

    words: str
    holds: Callable[[Any], bool]


def integer(low: int = 0, high: int = LARGEST) -> Valid:
    """Whole numbers from low to high; true and false are not valid."""
    return Valid(
        f"a whole number, at least {low} and at most {high}", lambda value: type(value) is int and low <= value <= high
    )


def number(low: float = -FARTHEST, high: float = FARTHEST) -> Valid:
    """Numbers from low to high, whole or not; infinity is valid only if it is `low` or `high`."""
    holds = lambda value: type(value) in (int, float) and low <= value <= high
    return Valid(f"a number from {low:g} to {high:g}", holds)


def text(longest: int = LONGEST) -> Valid:
    """Texts of at most `longest` letters of Unicode; halves of surrogate pairs, which JSON can write, are not valid."""
    return Valid(
        f"a text of at most {longest} letters of Unicode",
        lambda value: isinstance(value, str) and len(value) <= longest and not re.search("[\ud800-\udfff]", value),
    )


def several(entry: Valid, least: int = 0, most: int = LONGEST) -> Valid:
    """Lists of `least` to `most` values of one kind."""
    count = least if least == most else f"{least} to {most}"
    return Valid(
        f"a list of {count}, each {entry.words}",
        lambda value: isinstance(value, (list, tuple)) and least <= len(value) <= most and all(map(entry.holds, value)),
    )


def table(entry: Valid, most: int = LONGEST, names: Valid | None = None) -> Valid:
    """Tables of at most `most` fields, with values of one kind and names of one kind (texts by default)."""
    names = names or text()
    return Valid(
        f"a table of at most {most} fields, each {entry.words}",
        lambda value: (
            isinstance(value, Mapping)
            and len(value) <= most
            and all(map(names.holds, value))
            and all(map(entry.holds, value.values()))
        ),
    )


def either(*kinds: Valid) -> Valid:
    """Values of any of several kinds."""
    return Valid(" or ".join(kind.words for kind in kinds), lambda value: any(kind.holds(value) for kind in kinds))


FLAG = Valid("true or false", lambda value: isinstance(value, bool))
NULL = Valid("null", lambda value: value is None)
PLAIN = either(NULL, FLAG, number(), text())
ANY = either(PLAIN, several(either(PLAIN, several(PLAIN))), Valid("a table", lambda value: isinstance(value, Mapping)))


def optional(kind: Valid) -> Valid:
    """Values of a kind, or null."""
    return either(kind, NULL)


def like(default: Any) -> Valid:
    """The values that a field may hold, inferred from the field's default.

    If the default is a whole number of at least 1, such as a size, whole numbers of at least 1 are valid; if it is a
    smaller whole number, whole numbers of at least the default are. For a flag, null is valid, too. The entries of a
    list have the type of the default's first entry; whole numbers in a list are at least 0. For a default of another
    type, such as null or a table, any plain value, list or table is valid.
    """
    if isinstance(default, bool):
        return optional(FLAG)
    if isinstance(default, int):
        return integer(min(default, 1))
    if isinstance(default, float):
        return number()
    if isinstance(default, str):
        return text()
    if isinstance(default, (list, tuple)) and default:
        first = default[0]
        return several(integer() if type(first) is int else like(first))
    return several(PLAIN) if isinstance(default, (list, tuple)) else ANY


def objection(field: str, value: Any, valid: Valid) -> str:
    """The reason why a field may not hold a value; "" if it may."""
    return "" if valid.holds(value) else f"{field} = {limits.short(value)}. Valid: {valid.words}."


def check(fields: Mapping[str, Valid], values: Mapping[str, Any], what: str) -> None:
    """Refuses a table in which a field holds a value that is not valid.

    Args:
        fields: {field: its valid values}; a field may be absent.
        values: the table.
        what: the name of the table, for the message.

    Raises:
        limits.Refused: at the first field whose value is not valid.
    """
    for field, valid in fields.items():
        if field in values and (why := objection(field, values[field], valid)):
            raise limits.Refused(f"{what}: {why}")


public.declare(__name__, renamed={"whole": "integer"})
