"""A recipe from Python: objects for some parts, the config for the others, and the record of objects in config.json."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusion.arrays.arguments import described as described_value, require
from diffusion.data.sources import DataSpec, python_objects
from diffusion.data.sources.streams import Stream
from diffusion.objectives import Jumps, Moves, Restores
from diffusion.objectives.conditioning import null_like
from diffusion.objectives.objective import check_objective
from diffusion.parameterizations import Parameterization
from diffusion.recipe import fields, sections
from diffusion.recipe.companions import SecondPlayer, Teacher
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.defaults import defaults
from diffusion.recipe.guides import Steered
from diffusion.recipe.part_descriptions import described
from diffusion.recipe.parts import PARTS, Resolver
from diffusion.recipe.sections import argument
from diffusion.recipe.values import differences, put, refused
from diffusion.samplers import Sampler
from diffusion.sampling.caching import Cache
from diffusion.timesteps import Plan

# The fields that an argument in Python stands for: beside it they would be a second answer to one question.
STANDS_FOR = PARTS | {
    "data": (
        "data.source",
        "data.name",
        "data.dir",
        "data.split",
        "data.latents",
        "evaluate.split",
        "evaluate.loss.latents",
    )
}
KINDS: dict[str, tuple[type, str]] = {
    "sampler": (Sampler, "a Sampler, such as samplers.heun()"),
    "plan": (Plan, "a Plan, which timesteps.plan(grid) makes of a grid of times"),
    "parameterization": (Parameterization, "a Parameterization, such as parameterizations.v()"),
    "teacher": (Teacher, "a Teacher(path, parameterization) of diffusion.recipe.companions"),
    "second": (SecondPlayer, "a SecondPlayer(objective, optimizer) of diffusion.recipe.companions"),
    "cache": (Cache, "a Cache, such as caching.taylor_seer(interval=4)"),
}
UPDATES = {  # parts with the functions init and update, of any type
    "optimizer": "an optimizer, such as optax.adam(1e-3)",
    "average": "a moving average, such as ema.exponential_moving_average()",
}
RECORDED = {  # {part: where config.json describes it}
    "schedule": "schedule",
    "objective": "objective",
    "network": "model",
    "parameterization": "parameterization",
    "optimizer": "optimizer",
    "sampler": "sample.sampler",
}


def completed(recipe: Any) -> tuple[dict[str, Any], DataSpec | None]:
    """The arguments of a recipe whose config holds settings, with the config that describes them, and its data.

    Returns:
        (the recipe's arguments by name, the description of its data; None where config.data names them).

    Raises:
        ConfigError: for a setting that is not known, is out of range, or names what an argument gives already.
        TypeError: if the objective, the sampler, the plan or another part is none, such as a function that was not
            called.
        ValueError: if a part that has no default is missing, held-out records are given without data, or the objective
            trains on another null condition than the one that samples use.
    """
    for name, section in sections.SECTIONS.items():
        require(getattr(recipe, name), section, f"{name}=...", f"a {section.__name__}(...) of diffusion.recipe")
    require(recipe.config, (Mapping, ConfigDict), "config=...", 'a mapping such as {"train.steps": 100}')
    owners = (recipe, *sections.SECTIONS.values())
    left_out = {field.name: field.default for owner in owners for field in dataclasses.fields(owner)}
    given = {name: part for name, part in sections.flat(recipe).items() if part is not left_out[name]}
    given = {name: given[name] for name in PARTS if name in given}
    check_objective(recipe.objective)
    for name, (kind, valid) in KINDS.items():
        if name in given:
            require(given[name], kind, argument(name), valid)
    for name, valid in UPDATES.items():
        if name in given and not (hasattr(given[name], "init") and hasattr(given[name], "update")):
            raise TypeError(f"{argument(name)} must be {valid}; got {described_value(given[name])}")
    if "driver" in given and not (callable(given["driver"]) or isinstance(given["driver"], Steered)):
        valid = "a function of the arguments of samplers.sample"
        raise TypeError(f"{argument('driver')} must be {valid}; got {described_value(given['driver'])}")
    config, changed = settings(recipe.config, recipe.objective.reads)
    _refuse_two_answers(changed, [*given, *(["data"] if recipe.data is not None else [])])
    if recipe.data is None and recipe.held_out is not None:
        raise ValueError(
            "Recipe(held_out=...) needs Recipe(data=...), but here config.data names the data. Valid: both in Python"
        )
    reads = recipe.objective.reads
    if "parameterization" not in given and not _within("parameterization", changed):
        given["parameterization"] = reads and reads.parameterization
        if reads is not None and reads.parameterization is None and not isinstance(reads, Restores):
            raise ValueError(
                "Recipe(parameterization=...) is missing, and the objective does not say what its network predicts. "
                "Valid: e.g. parameterizations.velocity()"
            )
    classes = getattr(recipe.network, "num_classes", 0)
    given.setdefault("num_classes", classes)
    if not 0 <= given["num_classes"] <= (classes or given["num_classes"]):
        raise ValueError(
            f"{argument('num_classes')} is {given['num_classes']}, but the network has {classes or 'no'} classes. "
            "Valid: the network's number, or 0 for no classes"
        )
    if "guidance" in given and "conditions" not in given:  # it acts at any scale
        given["conditions"] = lambda network, condition, null: (condition, null)
    config.model = described(recipe.network)
    config.model.num_classes = given["num_classes"]
    source = None
    if recipe.data is not None and recipe.examples.shape is None:
        source = python_objects.source_of(recipe.data, given["num_classes"])
        if config.data.shape not in (None, source.spec.shape):
            raise refused(config, "data.shape", f"data=... holds examples of {source.spec.shape}", "that, or None")
        _add_null(given, recipe.objective, source.spec)
    resolver = Resolver(config, given, source and source.spec.shape)
    parts = resolver.parts(recipe.examples.shape)
    if recipe.examples.shape is not None:
        parts |= {"shape": recipe.examples.shape, "pictures": recipe.examples.pictures}
    if isinstance(source, Stream):  # a stream can perhaps be read only once
        parts["data"] = source
    described_parts = parts | {"optimizer": resolver.built.get("config.optimizer", parts["optimizer"])}
    parts["config"] = recorded(config, described_parts, recipe.data)
    return sections.sectioned(parts), None if source is None else source.spec


def _add_null(given: dict[str, Any], objective: Any, spec: DataSpec) -> None:
    """Adds the null condition on which the objective trains; refuses another one, which guidance would sample with."""
    trained = objective.condition.null
    if spec.condition is None or trained is None:
        return
    sampled = given.setdefault("null", trained)
    pairs = zip(*(jax.tree.leaves(null_like(null, spec.null)) for null in (trained, sampled)), strict=True)
    if not all(np.array_equal(one, other) for one, other in pairs):
        raise ValueError(
            f"Recipe(examples=Examples(null={sampled!r})) is not the null condition on which the objective trains, "
            f"{trained!r}. Valid: one null condition for both, or no Examples(null=...)"
        )


def settings(given: Mapping[str, Any], reads: Any = None) -> tuple[ConfigDict, set[str]]:
    """A whole config from the settings of a recipe, and the dotted fields that they name.

    Args:
        given: a whole config, or a mapping of dotted fields that differ from their defaults; a mapping as value
            replaces a whole entry.
        reads: how the objective's network is read, which decides the default sampler.

    Raises:
        ConfigError: for a field that is not known, or a value out of range.
    """
    config = defaults()
    if isinstance(given, ConfigDict):
        changed = {difference.field for difference in differences(config, given)}
        config = given.copy_and_resolve_references()
    else:
        changed = set(given)
        for field, value in given.items():
            try:
                put(config, field, value.item() if isinstance(value, np.generic) else value)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ConfigError(f"config = {{{field!r}: {value!r}}} is no setting: {error}.") from error
    if not _within("sample.sampler", changed):
        usual = {Moves: "geodesic_heun", Jumps: "flow_map", Restores: "ancestral"}
        config.sample.sampler = {"name": usual.get(type(reads), "heun")}
    fields.check(config)
    return config, changed


def _refuse_two_answers(changed: Iterable[str], given: Iterable[str]) -> None:
    for part in given:
        for field in sorted(changed):
            if any(_within(owner, (field,)) for owner in STANDS_FOR.get(part, ())):
                raise ConfigError(
                    f"config.{field} names a part that Recipe takes as an argument, and {argument(part)} is set too. "
                    f"Valid: either Recipe({argument(part)}) or config.{field}, not both."
                )


def _within(section: str, changed: Iterable[str]) -> bool:
    """Whether one of the fields is the section, lies in it, or holds it."""
    return any(f"{field}.".startswith(f"{section}.") or f"{section}.".startswith(f"{field}.") for field in changed)


def recorded(config: ConfigDict, parts: Mapping[str, Any], data: Any) -> ConfigDict:
    """A copy of the config in which descriptions of the parts replace their names, as far as parts can be described."""
    config = config.copy_and_resolve_references()
    for name, field in RECORDED.items():
        put(config, field, described(parts[name]))
    config.model.num_classes = parts["num_classes"]
    if teacher := parts["teacher"]:
        pairs = {"number": teacher.pairs, "sampler": described(teacher.pair_sampler), "steps": teacher.pair_steps}
        config.teacher.update({"path": str(teacher.path), "scale": teacher.scale, "pairs": pairs})
        config.teacher.parameterization = described(teacher.parameterization)
    if tuned := parts["tuned"]:
        config.base = {"path": str(tuned.base.path), "dtype": tuned.base.model.dtype}
        config.tuning = {"name": described(tuned.tuning.init)["name"]}
    if encoder := parts["encoder"]:
        config.encoder = {"network": described(encoder.module), "path": str(encoder.path), "size": encoder.size}
    if perceptual := parts["perceptual"]:
        config.perceptual = {"network": described(perceptual.module), "path": str(perceptual.path)}
    if second := parts["second"]:
        config.second_player = {
            "objective": described(second.objective),
            "network": described(second.network) if second.network else {"name": ""},
            "optimizer": described(second.optimizer),
            "updates": second.updates,
        }
    if data is not None:
        config.data.name = f"{type(data).__module__}.{type(data).__qualname__}"
    return config
