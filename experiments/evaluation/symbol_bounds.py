"""Bits per symbol of held-out sequences for a run on symbols, by an upper bound that the result names."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import discrete
from diffusion.experiments.evaluation.figures import LOWER
from diffusion.experiments.evaluation.real_images import drawn_rows
from diffusion.experiments.evaluation.sample_metrics import SEED
from diffusion.experiments.evaluation.subject import recipe_of_run
from diffusion.experiments.sampling import generate, symbol_samples
from diffusion.metrics import bootstrap
from diffusion.objectives import Restores
from diffusion.recipe import ConfigError, symbol_runs
from diffusion.recipe.recipe import Recipe
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import progress

TIMES = 32  # evenly spread times at which each sequence is noised


def bits_per_symbol(subject: Any) -> dict:
    """An upper bound on -log p of held-out sequences, as nats and bits per symbol and as perplexity.

    Each sequence is noised at `TIMES` times. The standard errors are over the sequences. "deviation_of_a_draw" is the
    standard deviation of the bound of one sequence at one time, in nats per symbol.

    Args:
        subject: `model_metrics.Subject` of a run on symbols.

    Raises:
        ConfigError: for a run without a bound.
    """
    config = subject.config
    params, step = checkpoints.load_ema(subject.workdir)
    recipe = recipe_of_run(subject)
    estimator, bound = bound_of(recipe, params)
    x = subject.real.images
    process = recipe.objective.process
    if process is not None and (wrong := symbol_runs.outside(process, x)):
        raise ConfigError(f"--metrics=symbols: the held-out sequences of {subject.real.spec.name} have {wrong}.")
    chosen = np.sort(drawn_rows(len(x), config.evaluate.number))
    count = len(chosen)

    @jax.jit
    def draws(params: Any, x0: jax.Array, label: jax.Array, number: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED), number), TIMES + 1)
        t = (jnp.arange(TIMES) + jax.random.uniform(keys[-1], (TIMES,))) / TIMES
        copies = lambda leaf: jnp.broadcast_to(leaf, (TIMES, *leaf.shape))
        return bound(params, copies(label), keys[:-1], copies(x0), jnp.clip(t, 2.0**-24, 1 - 2.0**-24))

    nats = []
    with progress.bar("bound", count, "sequences") as advance:
        for i, row in enumerate(chosen):
            nats.append(draws(params, x[row].astype(np.int32), np.int32(subject.real.labels[row]), np.int32(row)))
            advance(i + 1)
    nats = np.asarray(nats, np.float64) / x[0].size  # [N, TIMES]
    mean = bootstrap.mean(nats.mean(1))
    error = mean["standard_error"]
    scaled = lambda factor: {**mean, "value": factor * mean["value"], "standard_error": error and factor * error}
    perplexity = math.exp(mean["value"])
    protocol = {
        "estimator": estimator,
        "bound": "upper, on -log p in continuous time",
        "times": TIMES,
        "deviation_of_a_draw": float(nats.std(1, ddof=1).mean()),
        "sequences": f"{count} of the {len(x)} held-out sequences, drawn by seed {SEED}",
        "weights": "moving average",
        "step": step,
        "seed": SEED,
    }
    return {
        "nats_per_symbol": {**mean, "protocol": protocol},
        "bits_per_symbol": {**scaled(1 / math.log(2)), "better": LOWER, "protocol": protocol},
        "perplexity": {
            **mean,
            "value": perplexity,
            "standard_error": error and perplexity * error,
            "protocol": protocol,
        },
    }


def bound_of(recipe: Recipe, params: Any) -> tuple[str, Callable[..., Any]]:
    """(the name of a run's bound, a function (params, labels, keys, x0, t) -> the bound in nats `[B]`).

    Raises:
        ConfigError: for a run on other data or with other conditions, and for a metric path, which has no bound.
    """
    reads = recipe.objective.reads
    named = f"config.objective.name = {recipe.config.objective.name!r}"
    if not isinstance(reads, Restores):
        raise ConfigError(f"--metrics=symbols is for runs on symbols, but {named}. Valid: e.g. masked_diffusion.")
    process = reads.process
    if isinstance(process, discrete.MetricPath):
        raise ConfigError(
            f"--metrics=symbols: {named} has a path of distances, for which no bound is known. Valid: e.g. "
            "masked_diffusion."
        )
    if recipe.examples.by_record:
        raise ConfigError(
            "--metrics=symbols: the conditions of this run are more than classes. Valid: a run on classes, or without "
            "conditions."
        )
    block = recipe.objective.network.causal or 0
    name, bound = _named(process, block)

    def nats(params: Any, labels: Any, keys: jax.Array, x0: jax.Array, t: jax.Array) -> jax.Array:
        trained = symbol_samples.process_of(reads, params)
        network = lambda x, t, condition: recipe.network.apply(params, x, t, condition)
        condition = None if recipe.examples.null is None else generate.as_condition(labels)
        return bound(discrete.predictor(network, trained, reads.reading, condition), trained, keys, x0, t)

    return name, nats


def _named(process: Any, block: int) -> tuple[str, Callable[..., Any]]:
    """(the name of a bound, a function (predict, process, keys, x0, t) -> the bound); `block` is 0 without blocks."""
    if block:
        return f"block_bound of blocks of {block}", functools.partial(discrete.block_bound, block=block)
    if isinstance(process, discrete.TokenMasks):
        return "token_masked_bound", discrete.token_masked_bound
    if process.mask is not None:
        return "masked_bound", discrete.masked_bound
    return "score_entropy_bound", discrete.score_entropy_bound
