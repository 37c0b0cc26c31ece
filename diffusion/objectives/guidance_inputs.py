"""Guidance as a network's input: scale and interval are drawn in training and chosen in sampling."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import is_number, traced
from diffusion.objectives.conditioning import drop_condition, null_of
from diffusion.objectives.inputs import split
from diffusion.parameterizations import Network, Parameterization, Prediction, predict
from diffusion.schedules import NoiseSchedule, left_broadcast


class GuidanceInputs(NamedTuple):
    """Classifier-free guidance whose scale, and interval of times, are inputs of the network.

    Attributes:
        null: the null condition of one example; for class labels the integer num_classes.
        largest: largest scale, >= 1; the density of the scale w is proportional to w^-beta on [1, largest].
        beta: exponent of that density.
        interval: whether the network also receives the interval of times in which it is guided.
        dropout: share of examples that train on the null condition, without guidance.
    """

    null: Any
    largest: float = 8.0
    beta: float = 1.0
    interval: bool = True
    dropout: float = 0.1

    def check(self) -> None:
        """Refuses a largest scale below 1 and a dropout outside of [0, 1].

        Raises:
            ValueError: if one is out of range; the message names both.
        """
        if not traced(self.largest, self.dropout) and not (self.largest >= 1 and 0 <= self.dropout <= 1):
            raise ValueError(
                f"guidance: largest = {self.largest} must be a scale of at least 1, and dropout = {self.dropout} a "
                "share in [0, 1]"
            )


def draw_guidance(
    guidance: GuidanceInputs, schedule: NoiseSchedule, keys: Array, everywhere: Array
) -> tuple[Array, Array]:
    """The scale of each example, and its interval.

        w = (1 + r (largest^(1 - beta) - 1))^(1 / (1 - beta)),  largest^r for beta = 1,    r ~ U(0, 1)
        interval = (start, end),    start ~ U(0, t_max / 2),  end ~ U(t_max / 2, t_max)

    Args:
        guidance: the guidance.
        schedule: the process.
        keys: `[B]` random keys.
        everywhere: Bool `[B]`, whether an example's interval is (0, t_max); without `guidance.interval` all intervals
            are.

    Returns:
        w `[B]` and the intervals `[B, 2]`.
    """
    draws = jax.vmap(lambda key: jax.random.uniform(key, (3,), jnp.float32))(keys)
    r = draws[:, 0]
    if is_number(guidance.beta, 1):
        w = guidance.largest**r
    else:
        power = 1 - guidance.beta
        w = (1 + r * (guidance.largest**power - 1)) ** (1 / power)
    ends = jnp.arange(2, dtype=draws.dtype)[None]
    interval = (draws[:, 1:] + ends) * schedule.t_max / 2
    unlimited = everywhere | (not guidance.interval)
    return w, jnp.where(unlimited[:, None], schedule.t_max * ends, interval)


def guided_target(
    guidance: GuidanceInputs,
    velocity_of: Callable[[Any], Array],
    schedule: NoiseSchedule,
    keys: Array,
    t: Array,
    v: Array,
    condition: Any,
    everywhere: Array,
) -> tuple[Array, Array, Any]:
    """The training target of a network with guidance inputs, computed from the network's own velocities.

        target = v + (1 - 1 / w) (v_w - v_null),    w = 1 at times t outside the interval

    v_w is the network's velocity for the condition at scale w, so that the fixed point is v_w = w v_1 - (w - 1) v_null.
    A share `guidance.dropout` of the examples is trained on the null condition, without guidance.

    Args:
        guidance: the guidance.
        velocity_of: condition, as the network receives it -> the network's velocity `[B, ...]` at (x_t, t).
        schedule: the process.
        keys: `[B]` random keys.
        t: times `[B]`.
        v: `[B, ...]` velocities of the pairs.
        condition: condition of the batch.
        everywhere: Bool `[B]`, whether an example's interval is (0, t_max).

    Returns:
        The target, the velocity v_w of the guided flow at x_t (both without a gradient), and the condition with w - 1
        and the interval, as the network receives it.

    Raises:
        ValueError: if there is no condition.
    """
    if condition is None:
        raise ValueError("guidance that the network receives needs a condition, but the batch has none")
    input_keys, drop_keys = split(keys, 2)
    w, interval = draw_guidance(guidance, schedule, input_keys, everywhere)
    all_times = jnp.broadcast_to(schedule.t_max * jnp.arange(2, dtype=interval.dtype), interval.shape)
    received = lambda condition, w, interval: (condition, w - 1, *((interval,) if guidance.interval else ()))
    inside = (interval[:, 0] <= t) & (t <= interval[:, 1])
    w_t = jnp.where(inside, w, 1.0)
    rate = velocity_of(received(condition, w_t, all_times))
    null_rate = velocity_of(received(null_of(condition, guidance.null), jnp.ones_like(w), all_times))
    target = v + left_broadcast(1 - 1 / w_t, v) * (rate - null_rate)
    dropped, condition = drop_condition(
        drop_keys, (jnp.zeros(t.shape, bool), condition), (True, null_of(condition, guidance.null)), guidance.dropout
    )
    choose = lambda a, b: jax.lax.stop_gradient(jnp.where(left_broadcast(dropped, a), a, b))
    return choose(v, target), choose(null_rate, rate), received(condition, w, interval)


def uniform_scales(keys: Array, low: float, high: float) -> Array:
    """w ~ U(low, high) `[B]` float32, each drawn from the example's key."""
    return jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32, low, high))(keys)


def guided_prediction(
    network: Network,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    x_t: Array,
    t: Array,
    conditions: tuple[Any, Any],
    w: Array,
) -> Prediction:
    """A teacher's guided prediction with one scale for each example: (1 + w) conditional - w unconditional.

    Args:
        network: the teacher.
        schedule: the process.
        parameterization: the teacher's parameterization.
        x_t: noised data `[B, ...]`.
        t: times `[B]`.
        conditions: the condition and the null condition.
        w: guidance scales minus 1, `[B]`.
    """
    extra = left_broadcast(w, x_t)
    both = (predict(network, schedule, parameterization, x_t, t, condition)[:2] for condition in conditions)
    return Prediction(*(a + extra * (a - b) for a, b in zip(*both, strict=True)))
