"""The fields in which two configs differ."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffusion.recipe.values import canonical, plain

MISSING = "(absent)"


class Difference(NamedTuple):
    """One dotted field in which two configs differ; `MISSING` stands for a field that one of them lacks."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.old!r} -> {self.new!r}"


def differences(old: ConfigDict | Mapping, new: ConfigDict | Mapping) -> list[Difference]:
    """The dotted fields in which two configs differ, sorted; sequences are compared whole."""
    old = flattened(plain(old))
    new = flattened(plain(new))
    text = lambda values, field: canonical(values[field]) if field in values else None
    return [
        Difference(field, old.get(field, MISSING), new.get(field, MISSING))
        for field in sorted(old.keys() | new.keys())
        if text(old, field) != text(new, field)
    ]


def flattened(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted names; an empty dict stays, so that its absence shows."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
