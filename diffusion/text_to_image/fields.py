"""What a request for pictures, or the file of one, may say: the type and the range of each setting, read before use.

A file of settings and a request come from anyone; what is of another kind ends here, in a sentence.
"""

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

Reader = Callable[[str, Any], Any]
"""(name, value) -> the value as its type; a ValueError that names both where it is of another kind or out of range."""

STEPS = 1000
RESAMPLINGS = 100
BATCH = 4096
SIDE = 2**16
TEXT, PATH = 20_000, 4096  # characters
SEED = 2**32 - 1


def whole(low: int, high: int, are: str = "are valid") -> Reader:
    """Whole numbers from one to another; JSON has one type of numbers, and 20.0 is 20."""

    def read(name: str, value: Any) -> int:
        if not _is_number(value) or value % 1:
            raise ValueError(f"{name} = {reprlib.repr(value)}: a whole number is needed")
        if not low <= value <= high:
            raise ValueError(f"{name} = {value}: {low} .. {high} {are}")
        return int(value)

    return read


def number(low: float, high: float) -> Reader:
    """Finite numbers from one to another."""

    def read(name: str, value: Any) -> float:
        if not _is_number(value):
            raise ValueError(f"{name} = {reprlib.repr(value)}: a number is needed")
        if not low <= value <= high:
            raise ValueError(f"{name} = {value}: {low:g} .. {high:g} are valid")
        return float(value)

    return read


def text(most: int = TEXT, pattern: str = "") -> Reader:
    """Texts of at most some characters, of a pattern where one is named."""

    def read(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{name} = {reprlib.repr(value)}: a text is needed")
        if len(value) > most:
            raise ValueError(f"{name} has {len(value)} characters, and at most {most} are read")
        if re.search("[\0\ud800-\udfff]", value) or (pattern and not re.fullmatch(pattern, value)):
            raise ValueError(f"{name} = {reprlib.repr(value)} is not such a text: {pattern or 'no NUL, no surrogates'}")
        return value

    return read


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} = {reprlib.repr(value)}: true or false is needed")
    return value


def several(each: Reader, low: int, high: int, words: str) -> Reader:
    """A list of some length."""

    def read(name: str, value: Any) -> list:
        if not isinstance(value, (list, tuple)) or not low <= len(value) <= high:
            raise ValueError(f"{name} = {reprlib.repr(value)}: {words} are needed")
        return [each(name, one) for one in value]

    return read


def table(each: Reader, most: int) -> Reader:
    """Values by names."""

    def read(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or len(value) > most:
            raise ValueError(f"{name} = {reprlib.repr(value)}: a table of at most {most} names is needed")
        return {text(PATH)(f"a name of {name}", key): each(f"{name}[{key!r}]", one) for key, one in value.items()}

    return read


def optional(reader: Reader) -> Reader:
    """What a reader reads, or None."""
    return lambda name, value: None if value is None else reader(name, value)


SETTINGS: Mapping[str, Reader] = {
    "prompt": text(),
    "negative": text(),
    "label": whole(-1, 2**31 - 1),
    "steps": whole(1, STEPS),
    "guidance": number(-1e6, 1e6),
    "sampler": text(100),
    "height": whole(0, SIDE),
    "width": whole(0, SIDE),
    "image": text(PATH),
    "mask": text(PATH),
    "margins": several(whole(0, SIDE), 4, 4, "four whole numbers, top, bottom, left and right,"),
    "strength": number(0, 1),
    "resamplings": whole(1, RESAMPLINGS),
    "batch": whole(1, BATCH, "pictures are made at once"),
    "seed": whole(0, SEED),
}
"""What is asked for."""

CARRIED: Mapping[str, Reader] = {
    **SETTINGS,
    **{name: optional(SETTINGS[name]) for name in ("negative", "steps", "guidance", "image", "mask", "strength")},
    "format": whole(0, 2**31),
    "model": text(PATH),
    "workdir": text(PATH),
    "step": whole(0, 2**63),
    "loras": table(number(-1e6, 1e6), 100),
    "windows": flag,
    "dtype": text(20, "float32|bfloat16"),
    "tile": whole(0, SIDE),
    "batch_size": whole(1, BATCH),
    "seeds": several(whole(0, SEED), 1, BATCH, f"1 .. {BATCH} seeds"),
    "at": whole(0, BATCH - 1),
    "checkpoint": text(PATH),
    "files": table(text(64, "[0-9a-f]{64}"), 200),
    "versions": table(text(100), 100),
    "device": text(200),
}
"""What the file of a picture carries, with all that it was made from."""


def carried(about: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings in the file of a picture, each of its type and in its range; fields that are not known are left out.

    Args:
        about: from `pictures.settings_of`.
        where: the file, for messages.

    Raises:
        ValueError: for a field of another kind.
    """
    try:
        return {name: CARRIED[name](name, value) for name, value in about.items() if name in CARRIED}
    except ValueError as error:
        raise ValueError(f"{where} carries settings that this program does not write: {error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
