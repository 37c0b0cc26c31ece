"""DeepCache: the deep features of a U-Net, reused by its outer blocks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.sampling.caching.remembered_calls import Cache, Call


class Deep(NamedTuple):
    """The memory of DeepCache.

    Attributes:
        features: `[B, H', W', C']` input features of the branch's block in the last full evaluation.
        steps: int32 `[]` number of evaluations so far.
    """

    features: Array
    steps: Array


def deep_cache(interval: int, branch: int = 0) -> Cache:
    """DeepCache: runs the whole U-Net every `interval` steps, and otherwise only the blocks outside a skip connection.

        up_m(skip_m(x_t), up_(m + 1)'),    ' from the last whole evaluation

    Facts:
        skips: all blocks deeper than the skip connection `branch`
        number: interval, 2 to 10; 1 skips nothing
        paper: Ma et al. 2023, "DeepCache: Accelerating Diffusion Models for Free", with uniform intervals

    Args:
        interval: number of steps from one run of the whole network to the next, >= 1.
        branch: index of the skip connection, from 0 for the outermost; its block on the up path and all blocks further
            out run in every step.

    Raises:
        ValueError: if interval is below 1 or branch is negative; when called, if the network lacks this skip
            connection.
    """
    if interval < 1 or branch < 0:
        raise ValueError(f"deep_cache: interval = {interval} must be at least 1, and branch = {branch} at least 0")

    def memory(call: Call) -> Any:
        return Deep(call(branch=branch)[1].features, jnp.int32(0))

    def apply(kept: Deep, call: Call) -> tuple[Array, Deep, Array]:
        def evaluate(deep):
            output, reuse = call(branch=branch, deep=deep)
            return output, reuse.features, jnp.int32(reuse.run)

        runs = kept.steps % interval == 0
        output, features, run = jax.lax.cond(runs, lambda: evaluate(None), lambda: evaluate(kept.features))
        return output, Deep(features, kept.steps + 1), run

    return Cache(memory, apply, "deep", idle=interval == 1)
