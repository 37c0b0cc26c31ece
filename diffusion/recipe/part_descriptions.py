"""The description of a recipe's part that is a Python object, as data for config.json."""

import dataclasses
import math
from typing import Any

from diffusion.objectives import Objective, Teacher
from diffusion.objectives.objective_facts import flat

LATER = {Teacher: {"bidirectional": False}}
"""Fields that are newer than the first descriptions, with their defaults, at which they are left out."""


def described(part: Any) -> Any:
    """A part as data, as far as possible: its qualified name and its fields, or the name of a function.

    Of an objective, the description holds the loss and the facts that differ from their defaults, so that a fact which
    is added later does not change the descriptions of earlier runs.

    By comparing descriptions, a run refuses to resume with a part of another kind, or a network of another width. The
    values that a function has captured, such as the standard deviation of a density, are not described.
    """
    if part is None or isinstance(part, (bool, int, float, str)):
        return part if not isinstance(part, float) or math.isfinite(part) else repr(part)
    if not hasattr(part, "_fields") and isinstance(part, (list, tuple)):
        return [described(member) for member in part]
    fields_of = {}
    if isinstance(part, Objective):
        plainest = Objective(part.loss)
        plain = flat(plainest)
        fields_of = {
            name: x for name, x in flat(part).items() if name == "loss" or described(x) != described(plain[name])
        }
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields_of = {
            f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.name not in ("parent", "name")
        }
    elif hasattr(part, "_asdict") and not isinstance(part, type):
        later = LATER.get(type(part), {})
        fields_of = {
            name: value
            for name, value in part._asdict().items()
            if not (_is_empty(value) and part._field_defaults.get(name) == ())
            and not (name in later and later[name] == value)
        }
    named = part if callable(part) and hasattr(part, "__qualname__") else type(part)
    name = f"{named.__module__}.{named.__qualname__}"
    return (
        {"name": name, **{f: described(x) for f, x in fields_of.items() if f != "name"}}
        if fields_of
        else {"name": name}
    )


def _is_empty(value: Any) -> bool:
    """Whether a field is (); an array never is, although comparing it with () would not give True or False."""
    return isinstance(value, tuple) and value == ()
