"""Rejection sampling: exact samples of a law that is tilted by a bounded reward."""

__all__ = ["Accepted", "rejected"]

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from diffusion.arrays.arguments import require_keys
from diffusion.package import public
from diffusion.sampling.steering.twists import LogReward, rewards


class Accepted(NamedTuple):
    """Samples of a tilted law, by trials.

    Attributes:
        x: samples `[B, ...]`; where none was accepted, the last one that was tried.
        accepted: whether a trial was accepted, Bool `[B]`.
        trials: number of trials of each sample, int32 `[B]`; exp(bound) over their mean estimates E exp(log_reward).
        highest: the highest reward among the trials of each sample `[B]`; above the bound the law is another.
    """

    x: Array
    accepted: Array
    trials: Array
    highest: Array


def rejected(
    draw: Callable[[Array], Array], log_reward: LogReward, keys: Array, *, bound: float = 0.0, trials: int = 1000
) -> Accepted:
    """Samples of p(x) exp(r(x)) / Z where r(x) <= b: x ~ p is accepted with probability exp(r(x) - b), or drawn again.

    The law is exact for any p that can be drawn, in any dimension, and needs no derivative. A sample takes exp(b) / Z
    trials in the mean, Z = E exp(r). Sample i draws from keys[i] alone. A batch runs until its last sample is accepted.

    Facts:
        nfe: trials calls of `draw`, of the sample of a batch that takes the most
        paper: von Neumann 1951, "Various Techniques Used in Connection with Random Digits"

    Args:
        draw: keys `[B]` -> samples `[B, ...]` of p, of which number b depends on key b alone.
        log_reward: samples `[B, ...]` -> rewards `[B]`.
        keys: random keys `[B]`.
        bound: the upper bound b of the rewards; the lowest one takes the fewest trials.
        trials: number of trials of a sample at most, >= 1.

    Raises:
        ValueError: if trials is less than 1, or keys are no keys; outside of `jit`, for a reward that is NaN or above
            the bound, and for a sample of which no trial was accepted.
    """
    if trials < 1:
        raise ValueError(f"rejected: trials = {trials} must be at least 1")
    require_keys(keys, max(jnp.size(keys), 1), "rejection needs one key for each sample")

    def attempt(number):
        draws, tests = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, number)), out_axes=1)(keys)
        x = draw(draws)
        reward = rewards(log_reward, x)
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (), reward.dtype))(tests)
        return x, reward, jnp.log(uniform) < reward - bound

    def again(state):
        number, before = state
        x, reward, passes = attempt(number)
        open_ = ~before.accepted
        chosen = lambda new, old: jnp.where(open_.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
        highest = jnp.where(open_, jnp.maximum(before.highest, reward), before.highest)
        after = Accepted(chosen(x, before.x), before.accepted | passes, before.trials + open_, highest)
        return number + 1, after

    x, reward, passes = attempt(0)
    first = Accepted(x, passes, jnp.ones(len(x), jnp.int32), reward)
    left = lambda state: (state[0] < trials) & ~state[1].accepted.all()
    _, outcome = jax.lax.while_loop(left, again, (jnp.int32(1), first))
    _check(outcome, bound, trials)
    return outcome


def _check(outcome: Accepted, bound: float, trials: int) -> None:
    if isinstance(outcome.highest, Tracer):
        return
    highest, accepted = np.asarray(outcome.highest), np.asarray(outcome.accepted)
    if (wrong := ~(highest <= bound)).any():
        b = int(wrong.argmax())
        raise ValueError(f"rejected: the reward of sample {b} is {highest[b]:.6g}. Valid: at most bound = {bound:g}")
    if not accepted.all():
        b = int((~accepted).argmax())
        raise ValueError(
            f"rejected: sample {b} was accepted in none of its {trials} trials. Valid: more trials, a lower bound, or "
            "a reward that varies less"
        )


public.declare(__name__)
