"""Predictor-corrector sampling: after each step, jumps that preserve the marginal correct the sample."""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import traced
from diffusion.discrete.categorical import draw
from diffusion.discrete.predictions import Predictor
from diffusion.discrete.rate_processes import AnyProcess
from diffusion.discrete.sampling_loop import SymbolSampler
from diffusion.discrete.steps import Law, ancestral_law, at_constant_rates, memoryless
from diffusion.schedules import left_broadcast


def corrected(corrections: int = 1, size: float = 1.0, law: Law = ancestral_law) -> SymbolSampler:
    """Steps of a sampler, each followed by forward and backward jumps at the time s.

    The rate of a jump is the sum of its rates in the process and in the process's reversal. Such jumps preserve the
    marginal at s, so the errors of earlier steps decay. In a process of masks they mask some symbols and unmask others.
    There are no jumps at time 0.

    Facts:
        nfe: (1 + corrections) steps
        paper: Campbell et al. 2022, "A Continuous Time Framework for Discrete Denoising Models", proposition 4 and its
            predictor-corrector sampler

    Args:
        corrections: number of corrections after each step, at least 1.
        size: duration of a correction divided by t - s, > 0.
        law: the function that returns the distribution of a step; by default that of `ancestral`.

    Raises:
        ValueError: if corrections or size is out of range.
    """
    if corrections < 1 or (not traced(size) and not size > 0):
        raise ValueError(
            f"corrected: corrections = {corrections} and size = {size}. Valid: corrections >= 1 and size > 0"
        )

    def move(predict: Predictor, process: AnyProcess, x: Array, t: Array, s: Array, keys: Array) -> Array:
        keys = jax.vmap(lambda key: jax.random.split(key, 1 + corrections), out_axes=1)(keys)
        x = draw(keys[0], law(predict, process, x, t, s))
        at = jnp.where(s > 0, s, t)  # a time with finite rates

        def correct(x: Array, keys: Array) -> tuple[Array, None]:
            moved = draw(keys, corrector_law(predict, process, x, at, size * (t - s)))
            return jnp.where((left_broadcast(s, x) > 0) & (x >= 0), moved, x), None  # `draw` explains symbols of -1

        return jax.lax.scan(correct, x, keys[1:])[0]

    return memoryless(move, evaluations=1 + corrections)


def corrector_law(predict: Predictor, process: AnyProcess, x: Array, t: Array, duration: Array) -> Array:
    """The distribution after a correction at the time t: float32 `[B, ..., K]`.

        x jumps with probability 1 - exp(-Lambda), to y in proportion to the rates
        R_t(x, y) + R_t(y, x) p_t(y) / p_t(x),    Lambda = duration times their sum

    Each position jumps independently, with the rates at x. The marginal p_t is preserved exactly in the limit of small
    durations.

    Args:
        predict: (x_t, t) -> log p(x_0 | x_t).
        process: the process.
        x: int `[B, ...]` symbols at time t.
        t: `[B]` times in (0, 1).
        duration: `[B]` durations, at least 0.
    """
    rates = process.rates_from(x, t) + process.reverse_rates(x, jnp.exp(predict(x, t)), t)
    return at_constant_rates(left_broadcast(duration, rates) * rates, x)
