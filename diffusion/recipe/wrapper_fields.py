"""The fields that configured the wrappers of an objective before `objective.wrappers` became a list.

Old run folders stay readable (`versions`). A new config may still set such a field for one version
(`deprecated_fields`).
"""

from collections.abc import Callable, Container
from typing import Any

# The names in the order in which the fields wrapped the objective; TERM stands for those of all terms on features.
TERM = "term"
ORDER = (
    "uncertainty",
    "masked_copy",
    "pictures",
    TERM,
    "augmentation",
    "end_to_end",
    "condition_dropout",
    "prior_preservation",
)
Entries = tuple[dict[str, Any], ...]
# For each field its name in the list, and the entries of its value; an empty or absent value was none.
FIELDS: dict[str, tuple[str, type | tuple[type, ...], Callable[[Any], Entries]]] = {
    "uncertainty": ("uncertainty", dict, lambda value: ({"name": "uncertainty", "network": value},)),
    "masked": ("masked_copy", dict, lambda value: ({"name": "masked_copy", **value},)),
    "pictures": ("pictures", dict, lambda value: ({"name": "pictures", **value},)),
    "terms": (TERM, tuple, lambda value: value),
    "augment": ("augmentation", dict, lambda value: ({"name": "augmentation", "augment": value},)),
    "end_to_end": ("end_to_end", dict, lambda value: ({"name": "end_to_end", **value},)),
    "condition_dropout": (
        "condition_dropout",
        (int, float),
        lambda value: ({"name": "condition_dropout", "rate": value},) if value else (),
    ),
}


def into_list(
    entry: dict[str, Any], stays: Callable[[str], bool] = lambda field: False, terms: Container[str] = ()
) -> list[str]:
    """Moves the fields of an objective's entry that wrapped it into its list "wrappers", and returns their names.

    Each replaces the wrapper of its name in the list. A value that no wrapper can have stays where it is, so that the
    checks of the config name it.

    Args:
        entry: the entry, changed in place.
        stays: whether a field stays, because it is an argument of the objective itself.
        terms: names of the terms on features, which the list may have already.
    """
    name_of = lambda wrapper: _name(wrapper, terms)
    wrappers = entry.get("wrappers", ())
    if not isinstance(wrappers, tuple):
        return []
    moved = []
    for field, (name, kind, entries_of) in FIELDS.items():
        if field not in entry or stays(field):
            continue
        value = entry[field]
        if value is not None and not isinstance(value, kind):
            continue
        del entry[field]
        moved.append(field)
        entries = () if value is None else entries_of(value)
        if field == "condition_dropout" and any(name_of(other) == "end_to_end" for other in wrappers):
            rate = {"condition_dropout": value} if value else {}
            wrappers = tuple(other | rate if name_of(other) == "end_to_end" else other for other in wrappers)
            continue
        wrappers = _placed(wrappers, name, entries, name_of)
    if moved:
        entry["wrappers"] = wrappers
    return moved


def prior_entry(prior: Any) -> Entries:
    """The wrapper that stands for the section `prior` of a config; none without a prompt."""
    if not isinstance(prior, dict) or not prior.get("prompt"):
        return ()
    usual = {"number": 200, "weight": 1.0}
    changed = {name: value for name, value in prior.items() if usual.get(name) != value}
    return ({"name": "prior_preservation", **changed},)


def _name(wrapper: Any, terms: Container[str]) -> Any:
    name = wrapper.get("name") if isinstance(wrapper, dict) else None
    return TERM if isinstance(name, str) and name in terms else name


def _placed(wrappers: Entries, name: str, entries: Entries, name_of: Callable[[Any], Any]) -> Entries:
    """The wrappers, where these entries replace all of one name, and stand before those that are later in `ORDER`."""
    others = [wrapper for wrapper in wrappers if name_of(wrapper) != name]
    later = ORDER[ORDER.index(name) + 1 :]
    where = next((i for i, wrapper in enumerate(others) if name_of(wrapper) in later), len(others))
    return (*others[:where], *entries, *others[where:])
