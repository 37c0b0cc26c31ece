"""The parts of a recipe that is built in Python: the defaults of what it leaves out, and how each part is recorded."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion import guidance, manifolds, pytrees, samplers, timesteps
from diffusion.data.sources import of_python
from diffusion.data.sources.streams import Stream
from diffusion.experiments.config import ConfigError, fields
from diffusion.experiments.config.defaults import defaults
from diffusion.experiments.config.packed import PackedNetwork
from diffusion.objectives import Jumps, Moves
from diffusion.objectives.conditioning import whole_null
from diffusion.objectives.padded_examples import with_padding
from diffusion.training import ema, optimizers

RECORDED = {  # the fields of a config that stand for the parts
    "schedule": "schedule",
    "objective": "objective",
    "network": "model",
    "parameterization": "parameterization",
    "optimizer": "optimizer",
    "sampler": "sample.sampler",
}
PARTS = {
    *RECORDED.values(),
    "second_player",
    "teacher",
    "autoencoder",
    "base",
    "tuning",
    "encoder",
    "perceptual",
}  # fields, and sections, that are no settings


def completed(recipe: Any) -> dict[str, Any]:
    """The parts that a recipe leaves out, by the name of their field, and its settings as a whole config.

    Raises:
        ConfigError: for a setting that is not known, or out of range.
        ValueError: if a part that has no default is missing.
    """
    config = settings(recipe.config)
    jumps = isinstance(recipe.objective.reads, Jumps)
    moves = isinstance(recipe.objective.reads, Moves)
    predicts = recipe.parameterization or (recipe.objective.reads and recipe.objective.reads.parameterization)
    if predicts is None and recipe.objective.reads is not None:
        raise ValueError(
            "Recipe(parameterization=...) is missing: the objective does not say what its network predicts. Valid: "
            "e.g. parameterizations.velocity()"
        )
    classes = getattr(recipe.network, "num_classes", 0) if recipe.num_classes is None else recipe.num_classes
    default = manifolds.geodesic_heun if moves else samplers.flow_map if jumps else samplers.heun
    sampler = recipe.sampler or default()
    steps = config.sample.steps
    parts = {
        "parameterization": predicts,
        "num_classes": classes,
        "null": np.int32(classes) if recipe.null is None and classes else recipe.null,
        "optimizer": recipe.optimizer or optimizers.adamw(steps=config.train.steps),
        "average": recipe.average or ema.exponential_moving_average(config.ema.decay, config.ema.warmup),
        "sampler": sampler,
        "plan": recipe.plan or timesteps.plan(timesteps.uniform(recipe.schedule, steps=steps)),
        "guidance": recipe.guidance or (lambda both: guidance.classifier_free(both, config.sample.guidance.scale)),
    }
    if recipe.data is not None and recipe.shape is None:
        source = of_python.source_of(recipe.data, classes)
        spec = source.spec
        if isinstance(source, Stream):  # which may be read once alone
            parts["data"] = source
        parts |= {"dtype": spec.dtype, "shape": pytrees.packed_shape(spec.shape)}
        if recipe.autoencoder is not None:
            parts |= {"shape": recipe.autoencoder.latent_shape(spec.shape), "pictures": tuple(spec.shape)}
        if spec.condition is not None:
            parts["null"] = whole_null(parts["null"], spec.null)
        if not pytrees.is_shape(spec.shape):
            own_times = bool(recipe.schedule.leaves)
            parts |= {"structure": spec.shape, "network": PackedNetwork(recipe.network, spec.shape, own_times)}
    for name, field in RECORDED.items():
        section, _, last = field.rpartition(".")
        part = getattr(recipe, name) if name == "network" else parts.get(name, getattr(recipe, name))
        (config[section] if section else config)[last] = described(part)
    if recipe.data is not None and isinstance(parts.get("null"), Mapping) and "real" in parts["null"]:
        parts["objective"] = with_padding(recipe.objective, parts.get("structure", parts.get("shape")))
    config.model.num_classes = classes
    if teacher := recipe.teacher:
        pairs = {"number": teacher.pairs, "sampler": described(teacher.pair_sampler), "steps": teacher.pair_steps}
        config.teacher.update({"path": str(teacher.path), "scale": teacher.scale, "pairs": pairs})
        config.teacher.parameterization = described(teacher.parameterization)
    if base := recipe.base:
        config.base = {"path": str(base.path), "dtype": base.model.dtype}
        config.tuning = {"name": described(recipe.tuning.init)["name"]}
    if encoder := recipe.encoder:
        config.encoder = {"network": described(encoder.module), "path": str(encoder.path), "size": encoder.size}
    if perceptual := recipe.perceptual:
        config.perceptual = {"network": described(perceptual.module), "path": str(perceptual.path)}
    if second := recipe.second:
        config.second_player = {
            "objective": described(second.objective),
            "network": described(second.network) if second.network else {"name": ""},
            "optimizer": described(second.optimizer),
            "updates": second.updates,
        }
    if recipe.data is not None:
        config.data.name = f"{type(recipe.data).__module__}.{type(recipe.data).__qualname__}"
    return parts | {"config": config}


def settings(changes: Mapping[str, Any]) -> ConfigDict:
    """The default settings with changes of dotted fields.

    Raises:
        ConfigError: for a field that is not known, or a value out of range.
    """
    config = defaults()
    for field in changes:
        if PARTS & {field, field.partition(".")[0]}:
            raise ConfigError(f"config.{field} names a part that Recipe takes as an argument. Valid: settings alone.")
    try:
        config.update_from_flattened_dict(dict(changes))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"config = {dict(changes)!r} holds a setting that is none: {error}.") from error
    fields.check(config)
    return config


def described(part: Any) -> Any:
    """A part as data, as far as possible: its qualified name, and its fields; a function's name.

    So a run is not resumed with a part of another kind, or a network of another width. What a function has captured,
    such as the standard deviation of a density, is not seen.
    """
    if part is None or isinstance(part, (bool, int, float, str)):
        return part if not isinstance(part, float) or math.isfinite(part) else repr(part)
    if isinstance(part, (list, tuple)) and not hasattr(part, "_fields"):
        return [described(member) for member in part]
    fields_of = {}
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields_of = {
            f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.name not in ("parent", "name")
        }
    elif hasattr(part, "_asdict") and not isinstance(part, type):
        fields_of = {
            name: value for name, value in part._asdict().items() if value != () or part._field_defaults.get(name) != ()
        }
    named = part if callable(part) and hasattr(part, "__qualname__") else type(part)
    name = f"{named.__module__}.{named.__qualname__}"
    return (
        {"name": name, **{f: described(x) for f, x in fields_of.items() if f != "name"}}
        if fields_of
        else {"name": name}
    )
