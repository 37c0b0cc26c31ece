"""The description of a recipe's part that is a Python object, as data for config.json."""

import dataclasses
import math
from typing import Any

from diffusion.objectives import Objective, Teacher
from diffusion.objectives.objective_facts import flat

LATER = {Teacher: {"bidirectional": False}}
"""Fields with their defaults that came after the first descriptions, which lack them, as fields of () may."""


def described(part: Any) -> Any:
    """A part as data, as far as possible: its qualified name, and its fields; a function's name.

    For an objective, its loss and the facts that differ from their defaults, so that a fact which is added later
    changes nothing for earlier runs.

    Therefore a run is not resumed with a part of another kind, or a network of another width. Values that a function
    has captured, such as the standard deviation of a density, are not seen.
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
    """Whether a field is (); an array is not, which would be compared number by number."""
    return isinstance(value, tuple) and value == ()
