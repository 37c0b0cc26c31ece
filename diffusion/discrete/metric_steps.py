"""The sampler of a metric path: a symbol jumps step by step towards a drawn clean symbol."""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.discrete.categorical import draw
from diffusion.discrete.metric_paths import MetricPath
from diffusion.discrete.predictions import Predictor
from diffusion.discrete.sampling_loop import SymbolSampler
from diffusion.discrete.steps import at_constant_rates, memoryless
from diffusion.schedules import left_broadcast


def metric_flow() -> SymbolSampler:
    """Draws x_0 from the prediction, and jumps towards it with the rates at t; first order.

    A step to t = 0 draws from the prediction. A plan may begin at t = 1.

    Facts:
        nfe: steps
        paper: Shaul et al. 2024, "Flow Matching with General Discrete Paths: A Kinetic-Optimal Perspective"; steps are
            measured by beta, so that no rate is infinite at t = 1
    """

    def move(predict: Predictor, path: MetricPath, x: Array, t: Array, s: Array, keys: Array) -> Array:
        first, second = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        x0 = draw(first, jnp.exp(predict(x, t)))
        at = jnp.where(s > 0, s, t)  # where beta is finite
        jumped = draw(second, metric_step_law(path, x, x0, t, at))
        return jnp.where((left_broadcast(s, x) > 0) & (x0 >= 0), jumped, x0)  # -1: see `draw`

    return memoryless(move, by_distances=True)


def metric_step_law(path: MetricPath, x: Array, x0: Array, t: Array, s: Array) -> Array:
    """The distribution of x_s in a step of `metric_flow` for a known x_0: float32 `[B, ..., K]`.

        x jumps with probability 1 - exp(-Lambda), to y in proportion to velocity(y),
        Lambda = (beta(s) - beta(t)) sum_y velocity(y)

    Args:
        path: the path.
        x: int `[B, ...]` symbols at time t.
        x0: int `[B, ...]` clean symbols.
        t: `[B]` times in (0, 1].
        s: `[B]` times in (0, t].
    """
    velocity = path.velocity(x, x0, t)
    return at_constant_rates(left_broadcast(path.nearness(s) - path.nearness(t), velocity) * velocity, x)
