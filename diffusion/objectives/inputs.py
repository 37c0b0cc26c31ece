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
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.parameterizations import Network
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Density

Batch = Mapping[str, Any]
Metrics = Mapping[str, Array]
Objective = Callable[[Mapping[str, Network], NoiseSchedule, Array, Batch, ArrayLike], tuple[Array, Metrics]]


def draw_times(density: Density, keys: Array, batch: Batch) -> tuple[Array, Array]:
    """A time and its importance for each example of the batch: (t `[B]`, importance `[B]`)."""
    index = batch.get("index", jnp.arange(keys.shape[0]))
    return density.sample(batch.get("density", density.init()), keys, index)


def draw_noise(keys: Array, x: Array) -> Array:
    """Standard normal noise of x's shape, each example's from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)


def split(keys: Array, parts: int) -> Array:
    """`[parts, B]` independent keys from `[B]`: one for every decision made for an example."""
    return jax.vmap(lambda key: jax.random.split(key, parts), out_axes=1)(keys)


def mean_square(error: Array) -> Array:
    """`[B]` mean of the squares over all axes but the first."""
    return jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))
