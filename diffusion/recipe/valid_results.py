"""Checks of the results of an entry's function, so that a mistake is named where the function is called."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from diffusion.recipe.config_errors import ConfigError


class Returned(NamedTuple):
    """The valid results of the functions of a kind.

    Attributes:
        words: a noun phrase for it.
        fits: whether a value is one.
        types: the types of such values; () for functions and arrays.
    """

    words: str
    fits: Callable[[Any], bool]
    types: tuple[type, ...] = ()

    def check(self, value: Any, path: str, name: Any) -> None:
        """Refuses what the function of an entry returned if it is not what functions of its kind return.

        Args:
            value: the value that the function returned.
            path: the path of the entry, e.g. `config.schedule`.
            name: the name of the function.

        Raises:
            ConfigError: naming the function, what it returned, and what is valid.
        """
        if not self.fits(value):
            raise ConfigError(
                f"{path}.name = {name!r} returns {_with_article(type(value).__name__)}. Valid: a function that returns "
                f"{self.words}; see docs/extend.md."
            )


def _fields_of(kind: type) -> list[str]:
    return getattr(kind, "_fields", None) or [field.name for field in dataclasses.fields(kind)]


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOU' else 'a'} {noun}"


def values(*types: type) -> Returned:
    """A value with the fields of one of these types: a user's own type with these fields is valid."""
    fields = [_fields_of(kind) for kind in types]
    words = " or ".join(_with_article(kind.__name__) for kind in types)
    alike = lambda value: any(all(hasattr(value, one) for one in names) for names in fields)
    return Returned(words, lambda value: isinstance(value, types) or alike(value), types)


def function(signature: str) -> Returned:
    """A function, with its signature in words: "of the time that returns a share"."""
    return Returned(f"a function {signature}", callable)


def either(one: Returned, other: Returned) -> Returned:
    """Either of two results."""
    return Returned(f"{one.words} or {other.words}", lambda value: one.fits(value) or other.fits(value))


def array(words: str, rank: int) -> Returned:
    """An array of numbers of a rank, which may be traced, or nested sequences of them."""

    def fits(value: Any) -> bool:
        try:
            return (
                np.ndim(value) == rank
                and np.dtype(getattr(value, "dtype", None) or np.asarray(value).dtype).kind in "iuf"
            )
        except (TypeError, ValueError):  # words, or rows of different lengths
            return False

    return Returned(words, fits)


NETWORK = Returned(
    "a Linen module, or another network with init and apply",
    lambda value: callable(getattr(value, "init", None)) and callable(getattr(value, "apply", None)),
)
