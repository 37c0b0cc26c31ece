"""What every objective starts from: a time and a noise for each example, each from a key of its own.

    objective(networks, schedule, keys, batch, step) -> (losses [B], metrics)

  networks: mapping from names to networks, {"model": (x_t, clock, condition) -> output}.
  schedule: the process.
  keys: `[B]` random keys, one an example.
  batch: mapping with "x" `[B, ...]` clean data in float32, "condition" (a pytree with leading axis B, or None),
    optionally "index" `[B]`, the examples' global indices (0 .. B - 1 if absent; stratified densities use them), and
    "density", the state of an adaptive density of times.
  step: the training step, for objectives that follow a curriculum.

  losses: `[B]` float32, one an example; the training step takes their mean.
  metrics: mapping from names to `[B]` arrays; "t" is always there.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.couplings import Coupling
from diffusion.parameterizations import Network
from diffusion.schedules import NoiseSchedule, left_broadcast
from diffusion.timesteps import Density

Batch = Mapping[str, Any]
Metrics = Mapping[str, Array]
Objective = Callable[[Mapping[str, Network], NoiseSchedule, Array, Batch, ArrayLike], tuple[Array, Metrics]]


class Noised(NamedTuple):
    """A batch at random times: x_t = alpha(t) x_0 + sigma(t) eps.

    Attributes:
      x_0: `[B, ...]` clean data.
      eps: `[B, ...]` noise.
      x_t: `[B, ...]` noised data.
      t: `[B]` times.
      importance: `[B]` weight that a loss at t gets, where the density stands in for another.
    """

    x_0: Array
    eps: Array
    x_t: Array
    t: Array
    importance: Array


def noised(
    schedule: NoiseSchedule, density: Density, keys: Array, batch: Batch, coupling: Coupling | None = None
) -> Noised:
    """Draws a time and a noise for each example, from two keys that are split from its own."""
    time_keys, noise_keys = split(keys, 2)
    x_0 = batch["x"]
    index = batch.get("index", jnp.arange(keys.shape[0]))
    t, importance = density.sample(batch.get("density", density.init()), time_keys, index)
    eps = jax.vmap(lambda key: jax.random.normal(key, x_0.shape[1:], x_0.dtype))(noise_keys)
    if coupling is not None:
        eps = coupling(x_0, eps)
    x_t = left_broadcast(schedule.alpha(t), x_0) * x_0 + left_broadcast(schedule.sigma(t), x_0) * eps
    return Noised(x_0, eps, x_t, t, importance)


def split(keys: Array, parts: int) -> Array:
    """`[parts, B]` independent keys from `[B]`: one for every decision made for an example."""
    return jax.vmap(lambda key: jax.random.split(key, parts), out_axes=1)(keys)


def mean_square(error: Array) -> Array:
    """`[B]` mean of the squares over all axes but the first."""
    return jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))
