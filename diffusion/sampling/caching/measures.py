"""Measurement of a model's constants for caches: the ratios of MagCache and the polynomial of TeaCache."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.sampling.caching.remembered_calls import Cache, Call
from diffusion.sampling.caching.residual_caches import relative_change


class Measures(NamedTuple):
    """The memory of `measured` after a trajectory; entry 0 of each series, which has no earlier step, is 1 or 0.

    Attributes:
        ratios: float32 `[steps]`, the mean over tokens of |residual| / |residual of the previous step|, for
            `mag_cache`.
        read: float32 `[steps]`, the relative change of the first block's input.
        output: float32 `[steps]`, the relative change of the network's output.
        last: (input of the first block, residual, output, number of steps so far) of the last step.
    """

    ratios: Array
    read: Array
    output: Array
    last: tuple[Array, Array, Array, Array]


def measured(steps: int) -> Cache:
    """A cache that skips nothing, and records the `Measures` of a trajectory of `steps` evaluations in its memory.

        _, memory = samplers.sample_with_memory(sampler, caching.cached(make, network, caching.measured(20)), ...)
        ratios = memory.calls[0].ratios

    Args:
        steps: number of evaluations of the trajectory, >= 1.

    Raises:
        ValueError: if steps is below 1.
    """
    if steps < 1:
        raise ValueError(f"measured: steps = {steps} must be at least 1")

    def memory(call: Call) -> Any:
        output, last = call(through=_seen)
        series = jnp.zeros(steps, jnp.float32)
        return Measures(series, series, series, (*last, output, jnp.int32(0)))

    def apply(kept: Measures, call: Call) -> tuple[Array, Measures, Array]:
        read, residual, before, i = kept.last
        output, (new_read, new_residual) = call(through=_seen)
        length = lambda a: jnp.linalg.norm(a.astype(jnp.float32), axis=-1)
        now = (
            jnp.mean(length(new_residual) / length(residual)),
            jnp.mean(relative_change(new_read, read)),
            jnp.mean(relative_change(output, before)),
        )
        set_to = lambda series, value, first: series.at[i].set(jnp.where(i > 0, value, first))
        ratios, reads, outputs = (set_to(*both) for both in zip(kept[:3], now, (1.0, 0.0, 0.0)))
        last = (new_read, new_residual, output, i + 1)
        return output, Measures(ratios, reads, outputs, last), jnp.int32(0)

    return Cache(memory, apply, "blocks")


def _seen(blocks: Any) -> tuple[Array, tuple[Array, Array]]:
    h = blocks.features(blocks.start)
    last = blocks.features(blocks.run(blocks.start, 0, blocks.length))
    return last, (blocks.attended(), last - h)


def fitted(measures: Measures, degree: int = 4) -> tuple[float, ...]:
    """The polynomial of `tea_cache` for a model, from the first block's input change to the output change.

    Args:
        measures: measures of a trajectory of at least degree + 2 steps.
        degree: degree of the polynomial; 4 in the paper.

    Returns:
        The coefficients of the polynomial, the highest power first.

    Raises:
        ValueError: if there are too few steps.
    """
    read, output = (np.asarray(jax.device_get(series), np.float64)[1:] for series in (measures.read, measures.output))
    if len(read) < degree + 1:
        raise ValueError(
            f"fitted: a polynomial of degree {degree} needs at least {degree + 2} steps; got {len(read) + 1}"
        )
    return tuple(float(coefficient) for coefficient in np.polyfit(read, output, degree))
