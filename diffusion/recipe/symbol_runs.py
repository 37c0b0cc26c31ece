"""Checks of a run on symbols: the supported fields, and that process, network, sampler and data fit each other."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import discrete
from diffusion.data.sources.streams import Stream
from diffusion.discrete.metric_paths import AnyPath
from diffusion.models import facts
from diffusion.objectives import Restores
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.defaults import defaults
from diffusion.recipe.values import blamed_on, built_in_python, plain, refused, value_at

CHECKED = 256  # records whose symbols are compared with the process before a run
UNREAD = {  # fields that say nothing of symbols, and why
    "schedule": "config.objective.process has the schedule of a run on symbols",
    "parameterization": "config.objective.reading says what a network of symbols puts out",
    "data.augment": "augmentations are of pictures",
    "sample.driver": "samplers of symbols have one loop",
    "sample.plan": "samplers of symbols take the times of the grid, one after another",
    "sample.guidance.name": "symbols are guided by classifier_free",
    "sample.guidance.interval": "symbols are guided at all times",
    "sample.merge": "tokens of symbols are not merged",
    "sample.measurement": "measurements are of pictures",
}


def check(recipe: Any) -> None:
    """Refuses parts of symbols among parts of numbers, and parts of symbols that do not fit each other.

    Raises:
        ConfigError: naming the fields of the config, their values and what is valid.
        ValueError: under the same conditions, without fields, for a recipe that was built in Python.
    """
    _check_network(recipe)
    process = recipe.objective.process
    if process is None:
        return
    if not built_in_python(recipe.config):
        _check_unread(recipe.config)
    with blamed_on(recipe.config, "model.name", "objective.process"):
        size = getattr(recipe.network, "size", process.size)
        if size != process.size:
            raise ValueError(
                f"the network has {size} symbols, but the process has {process.size}. Valid: the same number in both"
            )
    if isinstance(recipe.objective.reads, Restores):  # a classifier makes no samples
        _check_reading(recipe, recipe.objective.reads)
        _check_sampler(recipe, process)


def _check_network(recipe: Any) -> None:
    """Refuses a network of numbers for an objective of symbols, and the reverse."""
    symbols = recipe.objective.process is not None
    with blamed_on(recipe.config, "model.name", "objective.name"):
        if symbols and not facts.takes_symbols(recipe.network):
            raise ValueError("the objective is for symbols, but the network takes numbers. Valid: symbol_transformer")
        if facts.takes_symbols(recipe.network) and not symbols:
            valid = "an objective of symbols, e.g. masked_diffusion"
            raise ValueError(f"the network takes symbols, but the objective is for numbers. Valid: {valid}")


def check_records(process: AnyPath, source: Any) -> None:
    """Refuses records with symbols that the process does not have, or with its mask: compiled programs cannot.

    Args:
        process: the process.
        source: the source, whose first records and some of the others are read.

    Raises:
        ConfigError: naming the symbols.
    """
    if isinstance(source, Stream):
        records = [source.decode(raw) for raw in source.first]
    else:
        records = [source[row] for row in np.unique(np.linspace(0, len(source) - 1, CHECKED).astype(int)).tolist()]
    if wrong := outside(process, np.stack([record[source.spec.entry] for record in records])):
        raise ConfigError(f"config.data: {source.spec.name} has {wrong}.")


def outside(process: AnyPath, x: np.ndarray) -> str:
    """The symbols of examples and the valid ones, in words, if the process lacks some or one is its mask; else ""."""
    mask, last = process.mask, process.size - 1
    most = last - 1 if mask == last else last
    if x.min() >= 0 and x.max() <= most and (mask is None or not np.any(x == mask)):
        return ""
    masked = "" if mask is None else f"; {mask} is the mask"
    return f"symbols {x.min()} .. {x.max()}. Valid: 0 .. {most}{masked}"


def _check_unread(config: Mapping) -> None:
    config, plainest = plain(config), plain(defaults())
    for field, why in UNREAD.items():
        default = value_at(plainest, field)
        if value_at(config, field) != default:
            raise refused(config, field, why, repr(default))


def _check_reading(recipe: Any, reads: Restores) -> None:
    """Refuses a reading that the process does not have, by a trial on one symbol."""
    with blamed_on(recipe.config, "objective.reading", "objective.process"):
        jax.eval_shape(
            lambda output, x, t: reads.reading(reads.process, output, x, t),
            jax.ShapeDtypeStruct((1, 1, reads.process.size), np.float32),
            jax.ShapeDtypeStruct((1, 1), np.int32),
            jax.ShapeDtypeStruct((1,), np.float32),
        )


def _check_sampler(recipe: Any, process: AnyPath) -> None:
    """Refuses a sampler or a plan that the process does not have, by a trial without the network."""
    plan, sampler, shape = recipe.sampling.plan, recipe.sampling.sampler, recipe.examples.shape
    block = facts.causal(recipe.network)
    with blamed_on(recipe.config, "model.causal", "sample.guides"):
        if block and recipe.sampling.guides:
            raise ValueError(
                "a guide sees whole sequences, but this network makes block after block. Valid: causal = 0, or no guide"
            )
        if shape and block and shape[0] % block:
            raise ValueError(f"blocks of {block} of {shape[0]} positions. Valid: a divisor of these")
    predict = lambda x, t: jnp.zeros((*x.shape, process.size))
    with blamed_on(recipe.config, "sample.sampler", "sample.steps", "objective.process"):
        discrete.check_steps(sampler, process, plan)
        if shape is None:
            return
        jax.eval_shape(
            lambda x, keys: discrete.sample(sampler, predict, process, x, plan, keys),
            jax.ShapeDtypeStruct((1, *((block,) if block else shape)), np.int32),
            jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
        )
