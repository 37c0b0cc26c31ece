"""The loop over weighted particles: groups of K particles, each resampled after each step."""

__all__ = ["Particles", "advance", "best", "check", "check_groups", "drawn", "prepared", "resampled_steps"]

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from diffusion.arrays import padding
from diffusion.arrays.arguments import require_keys, require_shape
from diffusion.package import public
from diffusion.samplers.gaussian_steps import check_gaussian
from diffusion.samplers.sample import Sampler, check_arguments, keys_of_step
from diffusion.samplers.sample_checks import check_moves, check_start
from diffusion.sampling.steering.resampling_schemes import Resampling, effective_size
from diffusion.schedules import NoiseSchedule
from diffusion.schedules.noise_schedule import as_float
from diffusion.timesteps import Plan


class Particles(NamedTuple):
    """G groups of K weighted samples; the particles of a group are consecutive in the batch.

    The weighted mean of a function f over a group estimates its mean under the target. The plain mean of
    exp(log-weight) f is an unbiased estimate of the integral of f under the unnormalised target.

    Attributes:
        x: samples at the end of the plan `[G K, ...]`.
        log_weights: log-weights `[G, K]`, not normalised.
        effective_sizes: effective sample size before each resampling `[N, G]`, from 1 to K.
    """

    x: Array
    log_weights: Array
    effective_sizes: Array


def drawn(particles: Particles, keys: Array) -> Array:
    """One particle of each group, drawn by the weights; it follows the target in the limit of large K.

    Args:
        particles: the groups.
        keys: random keys `[G]`, one for each group.

    Returns:
        `[G, ...]`.

    Raises:
        ValueError: if keys are not one for each group; outside of `jit`, if all particles of a group have the weight 0.
    """
    require_keys(keys, particles.log_weights.shape[0], "drawing a particle needs one key for each group")
    if not isinstance(particles.log_weights, Tracer) and (dead := jnp.isneginf(particles.log_weights).all(-1)).any():
        raise ValueError(
            f"all particles of group {int(dead.argmax())} have the weight 0, so that none can be drawn. Valid: more "
            "particles, or a log-reward above -inf"
        )
    return _chosen(particles, jax.vmap(jax.random.categorical)(keys, particles.log_weights))


def best(particles: Particles, log_rewards: Array) -> Array:
    """The particle of each group with the largest reward; without resampling this is best-of-K.

    Args:
        particles: the groups.
        log_rewards: rewards `[G K]` of the particles; a particle whose reward is NaN is left out.

    Returns:
        `[G, ...]`.
    """
    known = jnp.where(jnp.isnan(log_rewards), -jnp.inf, log_rewards)
    return _chosen(particles, known.reshape(particles.log_weights.shape).argmax(-1))


def check(sampler: Sampler, denoise: Any, schedule: NoiseSchedule, x: Array, plan: Plan, keys: Array, number: int):
    """Refuses arguments for which the particles' weights are not defined.

    Raises:
        TypeError: under the conditions of `samplers.sample`.
        ValueError: under the conditions of `samplers.sample`; if number does not divide the batch, the sampler's step
            is not a single Gaussian draw with one evaluation, or the plan renoises.
    """
    check_arguments(sampler, denoise, schedule, plan)
    check_start(x, keys)
    check_groups(x, number)
    check_gaussian("steering weighs", sampler, schedule, x, plan)


def check_groups(x: Array, number: int) -> None:
    """Refuses a number of particles in a group that does not divide the samples x `[G K, ...]`.

    Raises:
        ValueError: naming both numbers.
    """
    if number < 1 or x.shape[0] % number:
        raise ValueError(f"number = {number} particles in a group do not divide the {x.shape[0]} samples of x")


def prepared(sampler: Sampler, x: Array, plan: Plan) -> tuple[Array, Plan]:
    """(x, plan) as the particles' loop needs them.

    x has zeros on padding and at least float32, and the plan's times have x's dtype.
    """
    if sampler.real is not None:
        padding.check(sampler.real, x)
    x = padding.zeroed(as_float(x), sampler.real)
    check_moves(sampler, plan, x.dtype)
    return x, Plan(jnp.asarray(plan.t, x.dtype), jnp.asarray(plan.s, x.dtype), jnp.asarray(plan.renoise))


def resampled_steps(schedule: NoiseSchedule, plan: Plan) -> Array | int:
    """The number of steps that are followed by noise, which separates offspring; a last step to sigma = 0 adds none."""
    return plan.t.shape[0] - 1 - jnp.all(schedule.sigma(plan.s[-1]) <= 0).astype(int)


def advance(
    begin: tuple[Any, Array],
    move: Callable[[Any, Array, Array], tuple[Any, Array]],
    keys: Array,
    steps: int,
    resampled: Array | int,
    number: int,
    resample: Resampling,
) -> tuple[Any, Array, Array]:
    """Scans the steps, adds their log-weights, and resamples each group as long as later noise separates the offspring.

    Args:
        begin: (carry, initial log-weights `[G K]`), where the carry is a pytree whose leaves have the leading axis G K.
        move: (carry, i, keys `[G K]` of the step) -> (carry, log-weights of the step `[G K]`); `carry[0]` is x.
        keys: random keys `[G K]`. The resampling of a group uses the key of its first particle.
        steps: number N of steps.
        resampled: number of first steps after which groups are resampled; see `resampled_steps`.
        number: number K of particles a group.
        resample: the resampling of a group.

    Returns:
        (carry, log-weights `[G, K]`, effective sizes before each resampling `[N, G]`).

    Raises:
        ValueError: outside of `jit`, if a log-weight is NaN or infinity.
    """
    grouped = lambda a: a.reshape(-1, number)

    def step(state, i):
        carry, log_weights = state
        step_keys, _, group_keys = keys_of_step(keys, i)
        carry, added = move(carry, i, step_keys)
        require_shape(added, carry[0].shape[:1], "the log-weights of a step")
        log_weights = log_weights + grouped(added)
        ancestors, offspring = jax.vmap(resample)(grouped(group_keys)[:, 0], log_weights)
        ancestors = jnp.where(i < resampled, ancestors.astype(int), jnp.arange(number))
        places = (ancestors + number * jnp.arange(len(ancestors))[:, None]).ravel()
        carry = jax.tree.map(lambda leaf: leaf[places], carry)
        return (carry, jnp.where(i < resampled, offspring, log_weights)), effective_size(log_weights)

    carry, first = begin
    (carry, log_weights), sizes = jax.lax.scan(step, (carry, grouped(first)), jnp.arange(steps))
    _check_weights(log_weights)
    return carry, log_weights, sizes


def _check_weights(log_weights: Array) -> None:
    if isinstance(log_weights, Tracer) or (log_weights < jnp.inf).all():
        return
    group, particle = np.argwhere(~np.asarray(log_weights < jnp.inf))[0]
    raise ValueError(
        f"the log-weight of particle {particle} in group {group} is {log_weights[group, particle]}. Valid: a denoiser "
        "whose predictions are finite, and log-rewards below infinity; -inf is a particle without a weight"
    )


def _chosen(particles: Particles, places: Array) -> Array:
    """The particles at the positions `[G]` within their groups."""
    groups, number = particles.log_weights.shape
    return particles.x[places + number * jnp.arange(groups)]


public.declare(__name__)
