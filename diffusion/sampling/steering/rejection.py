"""Rejection sampling: exact samples of a distribution that is tilted by a bounded reward."""

__all__ = ["Accepted", "rejected"]

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from diffusion.arrays.arguments import require_keys
from diffusion.package import public
from diffusion.sampling.steering.twists import LogReward, rewards


class Accepted(NamedTuple):
    """The result of rejection sampling.

    Attributes:
        x: samples `[B, ...]`; the last trial if no trial was accepted.
        accepted: Bool `[B]`, whether a trial was accepted.
        trials: int32 `[B]`, number of trials of each sample; exp(bound) / mean trials estimates E exp(log_reward).
        highest: largest reward `[B]` among the trials of each sample; if it exceeds the bound, the samples are not
            exact.
    """

    x: Array
    accepted: Array
    trials: Array
    highest: Array


def rejected(
    draw: Callable[[Array], Array], log_reward: LogReward, keys: Array, *, bound: float = 0.0, trials: int = 1000
) -> Accepted:
    """Samples of p(x) exp(r(x)) / Z for r(x) <= b: x ~ p is accepted with probability exp(r(x) - b), or else redrawn.

    The samples are exact for any p that can be sampled, in any dimension, without derivatives. A sample needs exp(b) /
    Z trials on average, where Z = E exp(r). Sample i depends only on keys[i]. A batch runs until its last sample is
    accepted.

    Facts:
        nfe: as many calls of `draw` as the slowest sample of a batch needs trials
        paper: von Neumann 1951, "Various Techniques Used in Connection with Random Digits"

    Args:
        draw: keys `[B]` -> samples `[B, ...]` of p, where sample b depends only on key b.
        log_reward: samples `[B, ...]` -> rewards `[B]`.
        keys: random keys `[B]`.
        bound: upper bound b of the rewards; the smallest bound needs the fewest trials.
        trials: largest number of trials for a sample, >= 1.

    Raises:
        ValueError: if trials is below 1, or keys are not random keys; outside of `jit`, if a reward is NaN or above the
            bound, or no trial of a sample was accepted.
    """
    if trials < 1:
        raise ValueError(f"rejected: trials = {trials} must be at least 1")
    require_keys(keys, max(jnp.size(keys), 1), "rejection needs one key for each sample")

    def attempt(number):
        draws, tests = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, number)), out_axes=1)(keys)
        x = draw(draws)
        reward = rewards(log_reward, x)
        return x, reward, jnp.log(_fine_uniform(tests, reward.dtype)) < reward - bound

    def again(state):
        number, before = state
        x, reward, passes = attempt(number)
        open_ = ~before.accepted
        chosen = lambda new, old: jnp.where(open_.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
        highest = jnp.where(open_, jnp.maximum(before.highest, reward), before.highest)
        after = Accepted(
            chosen(x, before.x), before.accepted | passes, before.trials + open_.astype(jnp.int32), highest
        )
        return number + 1, after

    x, reward, passes = attempt(0)
    first = Accepted(x, passes, jnp.ones(len(x), jnp.int32), reward)
    left = lambda state: (state[0] < trials) & ~state[1].accepted.all()
    _, outcome = jax.lax.while_loop(left, again, (jnp.int32(1), first))
    _check(outcome, bound, trials)
    return outcome


def _fine_uniform(keys: Array, dtype: Any) -> Array:
    """Numbers `[B]` in [0, 1), uniform also where they are small; those of `jax.random.uniform` are multiples of eps.

    One in 1 / eps of these is 0, by which a trial would be accepted however small its probability is.
    """
    eps = jnp.finfo(dtype).eps
    coarse, fine = jax.vmap(lambda key: jax.random.uniform(key, (2,), dtype), out_axes=1)(keys)
    return jnp.minimum(coarse + eps * fine, 1 - eps / 2)


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
