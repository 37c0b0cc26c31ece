"""The arguments of an objective, and the draw of a time and a noise for each example from the example's key.

    objective(networks, schedule, keys, batch, step) -> (losses [B], metrics)

  networks: mapping from names to networks, {"model": (x_t, clock, condition) -> output}.
  schedule: the process.
  keys: `[B]` random keys, one for each example.
  batch: mapping with "x" `[B, ...]`, clean data in float32, "condition", a pytree with leading axis B or None, and
    optionally these entries:
      "index" `[B]`: global indices of the examples, for stratified densities; 0 .. B - 1 if absent.
      "noise" `[B, ...]`: the other end of each example's path at t_max; drawn from N(0, I) if absent.
      "start" `[B, ...]`: samples of the prior from which "x" was generated, see `regression`.
      "features" `[B, N, D]`: the encoder's features of "x", computed beforehand, see `added`.
      "real": mask of x without its padding, see `diffusion.padding`.
      "density": state of an adaptive density of times.
      "buffer": state of the objective's buffer.
      "rejected" `[B, ...]`: examples of the same conditions to which "x" was preferred.
      "metadata" {name: `[B, ...]`}: the facts of each example's caption that a reward reads.
      "data_condition": the data's condition, if the network receives another one, see `conditioned`.
  step: the training step, for objectives that follow a curriculum.

  losses: `[B]` float32, one for each example; the training step takes their mean.
  metrics: mapping from names to `[B]` arrays. It always has "t", which is `[B, F]` if each frame has its own time.

Losses that compare examples do so within fixed blocks of consecutive examples. They therefore do not depend on the
number of devices or micro-batches, as long as each holds whole blocks.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays import padding, random_keys
from diffusion.arrays.arguments import described, require, require_function, require_shape
from diffusion.objectives.couplings import Coupling
from diffusion.objectives.objective import Batch
from diffusion.objectives.objective_facts import Examples
from diffusion.objectives.weightings import Weighting, error_scale
from diffusion.parameterizations import Parameterization
from diffusion.schedules import NoiseSchedule, at_each, left_broadcast
from diffusion.timesteps import Density


class Noised(NamedTuple):
    """A batch at random times: x_t = alpha(t) x_0 + sigma(t) eps.

    Attributes:
        x_0: `[B, ...]` clean data.
        eps: `[B, ...]` noise.
        x_t: `[B, ...]` noised data.
        t: times `[B]` or `[B, F]`, or x's shape if leaves have a schedule each.
        importance: weight of a loss at t, in t's shape, which corrects for sampling t from another density than the
            loss is defined with. With a mask it is 0 on padding and larger on the real values, so that a mean over x is
            a mean over the real values.
    """

    x_0: Array
    eps: Array
    x_t: Array
    t: Array
    importance: Array


def noised(
    schedule: NoiseSchedule, density: Density, keys: Array, batch: Batch, coupling: Coupling | None = None
) -> Noised:
    """Draws a time and a noise for each example, from two keys that are split from the example's key."""
    time_keys, noise_keys = split(keys, 2)
    x_0, eps = pairs(noise_keys, batch, coupling)
    t, importance = (at_each(schedule, value, x_0) for value in times(density, time_keys, batch))
    if "real" in batch:
        importance = weigh(importance, padding.share(batch["real"], x_0))
    x_t = left_broadcast(schedule.alpha(t), x_0) * x_0 + left_broadcast(schedule.sigma(t), x_0) * eps
    return Noised(x_0, eps, x_t, t, importance)


def pairs(keys: Array, batch: Batch, coupling: Coupling | None = None) -> tuple[Array, Array]:
    """The two ends of each path, `[B, ...]` each: the data, and the batch's "noise" or drawn noise; both 0 on padding.

    Raises:
        ValueError: if the coupling depends on the data and there is a mask, or the coupling refuses the condition.
    """
    if "real" in batch and not (coupling is None or coupling.independent):
        raise ValueError(
            "a coupling compares examples of one size, but a mask of padding gives examples several sizes; the noise "
            "of the larger ones would not have the distribution that sampling starts from. Valid: no coupling, or "
            "couplings.independent()"
        )
    noise_keys, pair_keys = (keys, keys) if coupling is None else split(keys, 2)
    x_0 = batch["x"]
    x_1 = batch["noise"] if "noise" in batch else normal(noise_keys, x_0)
    if coupling is not None:
        x_1 = coupling(pair_keys, x_0, x_1, condition_of_data(batch))
    require_shape(x_1, x_0.shape, "the noise that each x is paired with")
    real = batch.get("real")
    return padding.zeroed(x_0, real), padding.zeroed(x_1, real)


def conditioned(batch: Batch, condition: Any) -> dict[str, Any]:
    """The batch with another condition for the network, while couplings still see the data's condition.

    The entries that a wrapper drops from the condition, or adds to it, say nothing about the data. The velocities with
    and without a condition are then learned from the same pairs, as classifier-free guidance assumes.

    Args:
        batch: the batch that the wrapper received.
        condition: pytree of arrays `[B, ...]`.
    """
    return {**batch, "condition": condition, "data_condition": condition_of_data(batch)}


def condition_of_data(batch: Batch) -> Any:
    """The data's condition in a batch, before wrappers changed it; None if there is none."""
    return batch["data_condition"] if "data_condition" in batch else batch.get("condition")


def pairing(coupling: Coupling | None) -> Examples:
    """How an objective with a coupling of data and noise uses its examples."""
    if coupling is None:
        return Examples(real=True)
    require(coupling, Coupling, "coupling", "a Coupling, e.g. couplings.optimal_transport()")
    return Examples(coupling.block, real=coupling.independent, score=coupling.independent)


def times(density: Density, keys: Array, batch: Batch) -> tuple[Array, Array]:
    """A time for each example (or frame), and the importance weight of its loss.

    Raises:
        TypeError: if the density draws something else than a pair.
        ValueError: if it does not draw one time for each example, or the importance has another shape than the times.
    """
    index = batch.get("index", jnp.arange(keys.shape[0]))
    drawn = density.sample(batch.get("density", density.init()), keys, index)
    if not (isinstance(drawn, tuple) and len(drawn) == 2):  # an array of two times would be read as a pair
        raise TypeError(
            f"the sample of a density must return a pair (t, importance); got {described(drawn)}. Valid: e.g. "
            "(t, jnp.ones_like(t))"
        )
    t, importance = map(jnp.asarray, drawn)
    if t.shape[:1] != keys.shape:
        raise ValueError(
            f"the sample of a density returned times of shape {t.shape} for {len(keys)} examples. Valid: one time for "
            f"each, ({len(keys)},), or for each frame, ({len(keys)}, F)"
        )
    if importance.ndim:
        require_shape(importance, t.shape, "the importance that a density returns beside its times")
    return t, importance


def normal(keys: Array, x: Array) -> Array:
    """Standard normal noise of x's shape `[B, ...]`, drawn for each example from its key."""
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)


def split(keys: Array, parts: int) -> Array:
    """`[parts, B]` independent keys, split from keys `[B]`."""
    return jax.vmap(lambda key: jax.random.split(key, parts), out_axes=1)(keys)


def apart(keys: Array, number: int) -> Array:
    """`[B]` keys for a wrapper's draws beside those of an objective that receives `keys` `[B]` and may split them.

    Args:
        keys: the keys that the objective receives.
        number: number of the wrapper's draws, different for each wrapper, see `random_keys.further`.
    """
    return jax.vmap(lambda key: random_keys.further(key, number))(keys)


def mean_square(error: Array) -> Array:
    """`[B]` mean of the squares over all axes but the first."""
    return jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))


def weighted_mean_square(weight: Array, error: Array) -> Array:
    """`[B]` mean of weight |error|^2 over all axes but the first, with one weight for each example or each frame."""
    return weighted_mean(weight, jnp.square(error))


def weighted_mean(weight: Array, loss: Array) -> Array:
    """`[B]` mean of weight times loss over all axes but the first, with one weight for each example or each frame."""
    return jnp.mean(left_broadcast(weight, loss) * loss, axis=tuple(range(1, loss.ndim)))


def output_weight(weighting: Weighting, schedule: NoiseSchedule, t: Array, parameterization: Parameterization) -> Array:
    """The weight of the squared error of a network's output at the times, in their shape.

    Args:
        weighting: (schedule, t) -> weight of the squared error of x0, in t's shape or `[]`.
        schedule: the process.
        t: the times, of any shape.
        parameterization: the meaning of the output.

    Raises:
        TypeError: if the weighting is not a function.
        ValueError: if it returns another shape, which would be broadcast.
    """
    require_function(weighting, "weighting", "a function (schedule, t) -> weight, such as weightings.snr()", takes=2)
    weight = jnp.asarray(weighting(schedule, t))
    if weight.ndim:
        require_shape(weight, t.shape, "what a weighting returns, one weight for each time,")
    return weight * error_scale(schedule, t, parameterization)


def weigh(weight: Array, other: Array) -> Array:
    """The product of two weights of a loss; one may have more axes of x than the other: `[B]` and `[B, F]`."""
    most = max(weight, other, key=jnp.ndim)
    return left_broadcast(weight, most) * left_broadcast(other, most)


def in_blocks(x: Array, block: int) -> Array:
    """`[B / block, block, ...]`: examples in blocks of consecutive ones.

    Raises:
        ValueError: if block does not divide the batch.
    """
    if x.shape[0] % block:
        raise ValueError(f"a batch (or micro-batch) of {x.shape[0]} is not a multiple of block = {block}")
    return x.reshape((x.shape[0] // block, block) + x.shape[1:])
