"""TaylorSeer: extrapolates the residual of a stack of blocks between the evaluations that run it."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.sampling.caching.remembered_calls import Cache, Call


class Forecast(NamedTuple):
    """The memory of TaylorSeer.

    Attributes:
        factors: `[order + 1, B, N, D]` the residual at the last full evaluation, and its finite differences.
        full_runs: int32 `[]` number of full evaluations.
        last: int32 `[]` index of the last full evaluation, counted from 0.
        steps: int32 `[]` number of evaluations so far.
    """

    factors: Array
    full_runs: Array
    last: Array
    steps: Array


def taylor_seer(interval: int, order: int = 1, first: int = 3) -> Cache:
    """TaylorSeer: runs the blocks every `interval` steps, and extrapolates their residual by a Taylor series otherwise.

        F(k) = sum_i D^i F k^i / i!,    D^0 F = F,    D^(i + 1) F = (D^i F - D^i F') / n

    k steps after a full evaluation F, where F' is from the previous full evaluation, n steps earlier. F is the residual
    h_L - h_0 of the whole stack. The authors extrapolate the residual of every attention layer and MLP, which takes 2 L
    times the memory; the light mode of diffusers extrapolates only the output.

    Facts:
        skips: all blocks
        number: interval, 3 to 6, with an order, 1 to 2; an interval of 1 skips nothing
        paper: Liu et al. 2025, "From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers";
            the steps that run follow the authors' code

    Args:
        interval: number of steps from one run of the blocks to the next, >= 1.
        order: order of the series, >= 0; 0 reuses the residual unchanged.
        first: number of first steps that all run the blocks, >= 1.

    Raises:
        ValueError: if interval or first is below 1, or order is negative.
    """
    if interval < 1 or first < 1 or order < 0:
        raise ValueError(
            f"taylor_seer: interval = {interval} and first = {first} must be at least 1, and order = {order} at least 0"
        )

    def memory(call: Call) -> Any:
        def through(blocks):
            h = blocks.features(blocks.start)
            zero = jnp.int32(0)
            return h, Forecast(jnp.stack([h] * (order + 1)), zero, zero, zero)

        return call(through=through)[1]

    def apply(kept: Forecast, call: Call) -> tuple[Array, Forecast, Array]:
        def through(blocks):
            h = blocks.features(blocks.start)
            since = (kept.steps - kept.last).astype(h.dtype)

            def run_all():
                last = blocks.features(blocks.run(blocks.start, 0, blocks.length))
                factors = [last - h]
                for i in range(order):
                    difference = (factors[i] - kept.factors[i]) / since
                    factors.append(jnp.where(kept.full_runs > i, difference, jnp.zeros_like(difference)))
                return last, Forecast(jnp.stack(factors), kept.full_runs + 1, kept.steps, kept.steps + 1)

            def forecast():
                series = sum(kept.factors[i] * (since**i / math.factorial(i)) for i in range(order + 1))
                return h + series, kept._replace(steps=kept.steps + 1)

            runs = (kept.steps < first) | ((kept.steps - first + 1) % interval == 0)
            last, new = jax.lax.cond(runs, run_all, forecast)
            return last, (new, jnp.where(runs, blocks.length, 0))

        output, (new, run) = call(through=through)
        return output, new, run

    return Cache(memory, apply, "blocks", idle=interval == 1)
