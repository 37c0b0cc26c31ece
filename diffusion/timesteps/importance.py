"""Adaptive importance sampling of training times, by the recent losses at these times."""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import traced
from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.timesteps.densities import Density


def loss_second_moment(
    schedule: NoiseSchedule, bins: int = 1000, discrete: bool = False, history: int = 10, uniform_prob: float = 0.001
) -> Density:
    """Samples times in proportion to the root mean square of recent losses, with importance weights as the correction.

        p_i = (1 - q) r_i / sum_j r_j + q / bins,    r_i^2 = mean of the last `history` squared losses of bin i
        importance = 1 / (bins p_i)

    The expected loss then equals the loss under uniform times, with less variance. Times are uniform until every bin
    has received `history` losses. `update` receives losses with importance weights, and stores them without.

    Facts:
        paper: Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", section 3.3 and the
            authors' code
        range: (t_min, t_max), or 1 / bins .. 1 if discrete

    Args:
        schedule: the process, which defines t_min and t_max.
        bins: number of bins of t; if discrete, the number of steps of the process.
        discrete: whether t is (i + 1) / bins, as in the paper, or uniform within bin i of (t_min, t_max).
        history: number of recent losses that each bin stores, >= 1; 10 in the paper.
        uniform_prob: q, the share of times that is drawn uniformly, in (0, 1]; 0.001 in the paper.

    Returns:
        A density whose state is {"losses": `[bins, history]`, "seen": `[bins]`}: the recent losses of each bin and the
        number of losses that it has received.

    Raises:
        ValueError: if bins or history is below 1, uniform_prob is not in (0, 1], or the schedule does not hold the
            times of the discrete process.
    """
    check_schedule(schedule)
    if bins < 1 or history < 1:
        raise ValueError(f"loss_second_moment: bins = {bins} and history = {history} must be at least 1")
    if not traced(uniform_prob) and not 0 < uniform_prob <= 1:
        raise ValueError(f"loss_second_moment: uniform_prob = {uniform_prob} must be in (0, 1] (0.001 in the paper)")
    if discrete and not (schedule.t_max >= 1 and schedule.t_min <= 1 / bins * (1 + 1e-6)):
        raise ValueError(
            f"loss_second_moment: a discrete process of {bins} steps has the times 1 / {bins} .. 1, which "
            f"leave the schedule's [{schedule.t_min:g}, {schedule.t_max:g}]"
        )
    span = schedule.t_max - schedule.t_min

    def init():
        return {"losses": jnp.zeros((bins, history), jnp.float32), "seen": jnp.zeros(bins, jnp.int32)}

    def probabilities(state) -> Array:
        root = jnp.sqrt(jnp.mean(jnp.square(state["losses"]), axis=-1))
        adapted = (1 - uniform_prob) * root / jnp.maximum(root.sum(), 1e-30) + uniform_prob / bins
        adapted = adapted / adapted.sum()  # the sum is q instead of 1 if every loss is zero
        return jnp.where(jnp.all(state["seen"] >= history), adapted, 1 / bins)

    def sample(state, keys, index):
        p = probabilities(state)
        choice, within = jax.vmap(lambda key: jax.random.uniform(key, (2,), jnp.float32), out_axes=1)(keys)
        i = jnp.minimum(jnp.searchsorted(jnp.cumsum(p), choice, side="right"), bins - 1)
        number = i.astype(within.dtype)
        # A draw in float32 is a multiple of 2^-23. Half of that is added, so that t is never at an end of the bin.
        inside = schedule.t_min + span * jnp.minimum((number + within + 2.0**-24) / bins, 1 - 2.0**-24)
        return (number + 1) / bins if discrete else inside, 1 / (bins * p[i])

    def update(state, t, losses):
        position = t * bins - 1 if discrete else (t - schedule.t_min) / span * bins
        i = jnp.clip((jnp.round if discrete else jnp.floor)(position).astype(jnp.int32), 0, bins - 1)
        losses = losses * bins * probabilities(state)[i]
        # The rank of each example among the examples of its bin, which stores its most recent losses in a ring buffer.
        order = jnp.argsort(i, stable=True)
        i = i[order]
        losses = losses[order]
        rank = jnp.arange(i.size) - jnp.searchsorted(i, i)
        count = jnp.zeros(bins, jnp.int32).at[i].add(1)
        slot = (state["seen"][i] + rank) % history
        row = jnp.where(rank >= count[i] - history, i, bins)  # older losses get a row out of bounds, and are dropped
        return {"losses": state["losses"].at[row, slot].set(losses, mode="drop"), "seen": state["seen"] + count}

    return Density(init, sample, update)
