"""The entry of an objective, and the list of its wrappers: terms, augmentation, condition dropout, ..."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from diffusion import objectives
from diffusion.io import limits
from diffusion.recipe import fields, fits, kinds, null_condition
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.entries import annotation, applied, requires, takes, tuples_of
from diffusion.recipe.values import blamed_on, plain

SETTINGS = ("guidance", "aligned", "equivariance")  # arguments of objectives that are tuples of settings
PATHS = {"objective": "config.objective", "second player": "config.second_player.objective"}


def build(parts: Any, kind: str, entry: Mapping) -> objectives.Objective:
    """The objective that an entry names, in its wrappers.

    The entries of "wrappers" act in their order: the first wraps the objective, the next what that returned. A schedule
    that trains wraps all of them.

    Args:
        parts: the builder of the run's parts.
        kind: "objective" or "second player".
        entry: the entry.

    Raises:
        ConfigError: for a mistake in an entry, or a function that returns no objective.
    """
    path = PATHS[kind]
    settings = plain(entry, path)
    wrappers = settings.pop("wrappers", ())
    fields.check_type(f"{path}.wrappers", wrappers, tuple)
    function = kinds.KINDS[kind].table.get(settings.get("name", ""))
    objective = parts.build(kind, settings, path, _settings_of(parts, function))
    if not isinstance(objective, objectives.Objective):
        raise ConfigError(
            f"{path}.name = {settings['name']!r} returns {limits.kind(objective)}. Valid: a function that returns "
            "an objectives.Objective, which holds the loss; see docs/extend.md."
        )
    for i, wrapper in enumerate(wrappers):
        objective = _wrapped(parts, objective, wrapper, f"{path}.wrappers[{i}]")
    if parts.schedule.trained is None or kind != "objective":
        return objective
    with blamed_on(parts.config, "schedule", f"{path.removeprefix('config.')}.name"):
        return objectives.with_trained_schedule(objective, parts.schedule.trained)


def _wrapped(parts: Any, objective: objectives.Objective, entry: Any, path: str) -> objectives.Objective:
    """The objective in what an entry names: a function from an objective to another, or a term that is added to it."""
    function = kinds.KINDS["wrapper"].table.get(entry.get("name", "")) if isinstance(entry, Mapping) else None
    null = {"null": _null(parts, function)} if function is not None and takes(function, "null") else {}
    wrapped = parts.build("wrapper", entry, path, objective=objective, **null)
    if isinstance(wrapped, objectives.Term):
        try:
            return objectives.added(objective, wrapped)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}.") from error
    if not isinstance(wrapped, objectives.Objective):
        raise ConfigError(
            f"{path}.name = {entry['name']!r} returns {limits.kind(wrapped)}. Valid: a function (objective, ...) "
            "that returns an objectives.Objective, or a function that returns an objectives.Term; see docs/extend.md."
        )
    return wrapped


def _null(parts: Any, function: Callable) -> Any:
    """The null condition of the run; refuses a run without one if the wrapper needs it."""
    follows = parts.base is not None or fits.conditions_may_follow(parts.config)
    if parts.null is None and requires(function, "null") and not follows:
        return null_condition.null_class(parts.config)
    return parts.null


def _settings_of(parts: Any, function: Callable | None) -> dict[str, Callable[[Any, str], Any]]:
    """{argument of an objective in SETTINGS: the function (entry, path) that makes its tuple}."""

    def setting(kind: type, argument: str, entry: Any, path: str) -> Any:
        null = {"null": null_condition.null_class(parts.config)} if takes(kind, "null") else {}
        return applied(kind, entry, path, argument, **null)

    tuple_types = {argument: tuples_of(annotation(function, argument)) for argument in SETTINGS}
    return {
        argument: functools.partial(setting, types[0], argument) for argument, types in tuple_types.items() if types
    }
