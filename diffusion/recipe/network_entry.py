"""The entry of a network; its sizes, channels and times follow from the rest of the config."""

import dataclasses
import typing
from types import NoneType
from typing import Any

from diffusion.arrays import pytrees
from diffusion.models import facts
from diffusion.recipe import names, picture_sizes
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.entries import annotation, call, takes
from diffusion.recipe.values import plain


def build(parts: Any, shape: Any = None) -> Any:
    """The Linen module `config.model`, not initialised, for examples of a shape, or of a pytree of shapes.

    The sizes of its images, the channels of its output and the times that it receives are set from the rest of the
    config, under the names of the network's own fields. Where the shape is known, the patch size is also checked.

    Raises:
        ConfigError: also for a network that the objective or the parameterization cannot be used with.
    """
    if parts.tuned is not None:
        return parts.tuned
    shape = shape or parts.model_shape_of(parts.config["data"]["shape"])
    if shape is not None:
        picture_sizes.check_shape(parts.config, shape)
    name = plain(parts.config["model"]).get("name")
    module = _sized(parts, name, shape)
    objective = parts.objective
    if getattr(module, "dropout", 0) and not facts.dropout(module):
        raise ConfigError(
            f"config.model.dropout = {module.dropout}: the training makes the random draws of dropout, so the network "
            "must take `dropout_keys` and state it by `takes_dropout`, which this one does not. Valid: 0."
        )
    attention = getattr(module, "attention", "matmul")
    if objective.network.forward_mode:
        by = f"config.objective.name = {parts.config['objective']['name']!r} differentiates the network in forward mode"
        lacks = f"has no forward-mode derivative, but {by}"
        if attention == "cudnn":
            valid = "auto, auto_jvp, cudnn_jvp, matmul, xla"
            raise ConfigError(f"config.model.attention = 'cudnn' {lacks}. Valid: {valid}.")
        if parts.config["train"]["products"] == "fp8":
            raise ConfigError(f"config.train.products = 'fp8' {lacks}. Valid: dtype.")
        if attention == "auto":
            module = facts.changed(module, attention="auto_jvp")
    return module


def _sized(parts: Any, name: str, shape: Any) -> Any:
    """The network for examples of a shape; None: for any shape if it takes that, else for images of some size."""
    network = names.MODELS.get(name)
    size = shape or (64, 64, 3)  # before the data are known only the other fields are looked at
    objective = parts.objective
    towers = facts.kind(network) == "towers"
    outputs = objective.network.channels or parts.parameterization.channels
    if outputs > 1 and not any(takes(network, field) for field in ("learn_sigma", "out_channels", "outputs")):
        by = "config.objective" if objective.network.channels else "config.parameterization (learned_variance)"
        raise ConfigError(
            f"config.model.name = {name!r} returns as many channels as it takes, but {by} needs {outputs} times as "
            "many. Valid: dit, unet."
        )
    sized = {"shape": size}  # a pytree has nothing but its shape
    height = 0
    if pytrees.is_shape(tuple(size)):
        size = tuple(size)
        height = size[0] if size else 1
        channels = size[-1] if size else 1
        sized = {
            "shape": size,
            "resolution": height,
            "channels": channels,
            "in_channels": channels,
            "picture_channels": channels,
            "out_channels": channels * outputs,
        }
        if annotation(network, "axes") is int:  # other networks have the features of each rotary axis under this name
            sized["axes"] = len(size) - 1
        if objective.process is not None:
            sized["size"] = objective.process.size
            sized["outputs"] = outputs if objective.network.judges else 0
    if shape is None and NoneType in typing.get_args(annotation(network, "shape")):
        sized["shape"] = None
    is_copied = isinstance(network, type) and dataclasses.is_dataclass(network) and not towers
    if is_copied and "config.model" in parts.built:  # of another size
        changes = {field: x for field, x in sized.items() if takes(network, field)}
        return facts.changed(parts.built["config.model"], **changes)
    dtype = parts.config["train"]["dtype"]
    tower = lambda s, p: call(names.TOWERS, {"name": p.rpartition(".")[2], **s}, p, "tower", size=height, dtype=dtype)
    parts.built.pop("config.model", None)
    return parts.field(
        "model",
        "model",
        **({"augmentations": objective.condition.augmentations} if objective.condition.augmentations else {}),
        nested=dict.fromkeys(names.TOWERS, tower) if towers else {},
        times=objective.network.times,
        strength=objective.condition.strength is not None,
        interval=objective.condition.interval,
        learn_sigma=outputs > 1,
        dtype=dtype,
        **sized,
    )
