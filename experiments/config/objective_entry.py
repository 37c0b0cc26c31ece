"""The entry of an objective, with what wraps it: terms, augmentation, condition dropout, prior preservation, ..."""

__all__ = ["build", "with_prior", "without_dropout"]

import functools
from collections.abc import Callable, Mapping
from typing import Any

from diffusion import objectives
from diffusion.experiments.config import ConfigError, fields, fits, kinds, null_condition
from diffusion.experiments.config.entries import annotation, applied, takes, tuples_of
from diffusion.experiments.config.values import plain

SETTINGS = ("guidance", "aligned", "equivariance")  # arguments of objectives that are tuples of settings
PATHS = {"objective": "config.objective", "second player": "config.second_player.objective"}


def with_prior(config: Mapping, objective: objectives.Objective) -> objectives.Objective:
    """The objective with the preservation of the class `config.prior`; as it is without one."""
    prior = config["prior"]
    return objectives.with_prior_preservation(objective, prior["weight"]) if prior["prompt"] else objective


def build(parts: Any, kind: str, entry: Mapping) -> objectives.Objective:
    """The objective that an entry names, with its augmentation and condition dropout.

    Args:
        parts: the builder of the run's parts.
        kind: "objective" or "second player".
        entry: the entry.
    """
    rate = entry.get("condition_dropout", 0.0)
    path = f"{PATHS[kind]}.condition_dropout"
    fields.check_type(path, rate, float)
    if rate == 0:
        return without_dropout(parts, kind, entry)
    try:
        follows = parts.base is not None or fits.conditions_may_follow(parts.config)
        null = null_condition.null_class(parts.config) if parts.null is None and not follows else parts.null
        if entry.get("end_to_end") is not None:
            return _end_to_end(parts, _of_x(parts, kind, entry), entry, condition_dropout=rate, null=null)
        alone = parts.tuning.apart if parts.tuning is not None else ()
        return objectives.with_condition_dropout(_of_x(parts, kind, entry), null, rate, alone)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def without_dropout(parts: Any, kind: str, entry: Mapping) -> objectives.Objective:
    """The objective on all conditions, which says what its network receives before the null condition is known."""
    objective = _of_x(parts, kind, entry)
    return objective if entry.get("end_to_end") is None else _end_to_end(parts, objective, entry)


def _end_to_end(parts: Any, objective: objectives.Objective, entry: Mapping, **dropout: Any) -> objectives.Objective:
    """The objective on latents with the training of the autoencoder `config.autoencoder` that makes them."""
    path = "config.objective.end_to_end"
    if parts.autoencoder is None:
        raise ConfigError(
            f"{path} = {plain(entry['end_to_end'])!r} trains an autoencoder, and config.autoencoder.network names "
            "none. Valid: e.g. {'name': 'autoencoder_kl'}."
        )
    dropout = {"condition_dropout": 0.0, "null": None} | dropout
    supplied = {"objective": objective, "autoencoder": parts.autoencoder.latents(), **dropout}
    return applied(objectives.end_to_end, entry["end_to_end"], path, "end-to-end training", **supplied)


def _of_x(parts: Any, kind: str, entry: Mapping) -> objectives.Objective:
    """The objective on x as the model has it, a latent's where an autoencoder trains with the model."""
    path = PATHS[kind]
    entry = plain(entry, path)
    entry.pop("condition_dropout", None)
    augment = entry.pop("augment", None)
    terms = entry.pop("terms", ())
    uncertainty = entry.pop("uncertainty", None)
    masked = entry.pop("masked", None)
    pictures = entry.pop("pictures", None)
    entry.pop("end_to_end", None)
    function = kinds.KINDS[kind].table.get(entry.get("name"))
    objective = parts.build(kind, entry, path, _settings_of(parts, function))
    if not isinstance(objective, objectives.Objective):
        raise ConfigError(
            f"{path}.name = {entry['name']!r} returns a {type(objective).__name__}. Valid: a function that returns "
            "an objectives.Objective, which holds the loss; see docs/extend.md."
        )
    if uncertainty is not None:
        network = parts.build("network of uncertainty", uncertainty, f"{path}.uncertainty")
        objective = objectives.with_uncertainty(objective, network)
    if masked is not None:
        objective = applied(objectives.with_masked_copy, masked, f"{path}.masked", "masked copy", objective=objective)
    if pictures is not None:
        objective = applied(
            objectives.with_pictures, pictures, f"{path}.pictures", "pictures of clips", objective=objective
        )
    objective = _with_terms(parts, objective, terms, f"{path}.terms")
    if augment is not None:
        augmentation = parts.build("conditioning augmentation", augment, f"{path}.augment")
        objective = objectives.with_augmentation(objective, augmentation)
    if parts.schedule.trained is None or kind != "objective":
        return objective
    with fits.blamed_on(parts.config, "schedule", f"{path.removeprefix('config.')}.name"):
        return objectives.with_trained_schedule(objective, parts.schedule.trained)


def _settings_of(parts: Any, function: Callable | None) -> dict[str, Callable[[Any, str], Any]]:
    """For each argument of an objective in SETTINGS, the function (entry, path) that makes its tuple."""

    def setting(kind: type, argument: str, entry: Any, path: str) -> Any:
        null = {"null": null_condition.null_class(parts.config)} if takes(kind, "null") else {}
        return applied(kind, entry, path, argument, **null)

    kinds = {argument: tuples_of(annotation(function, argument)) for argument in SETTINGS}
    return {
        argument: functools.partial(setting, tuple_types[0], argument)
        for argument, tuple_types in kinds.items()
        if tuple_types
    }


def _with_terms(parts: Any, objective: objectives.Objective, entries: Any, path: str) -> objectives.Objective:
    """The objective with its terms on the network's features."""
    fields.check_type(path, entries, tuple)
    if not entries:
        return objective
    terms = [parts.build("term", e, f"{path}[{i}]") for i, e in enumerate(entries)]
    try:
        return objectives.added(objective, *terms)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}.") from error
