"""Steering by a config: drivers that take the place of `samplers.sample`, most with measured pictures or a reward.

Each function returns a driver: (sampler=, denoise=, schedule=, x=, plan=, keys=) -> x at the end of the plan, as
`samplers.sample` is one; a driver of particles returns (x, `Weighed`).
"""

__all__ = [
    "Weighed",
    "corrected",
    "daps",
    "ddrm",
    "mcgdiff",
    "optimised_noise",
    "red_diff",
    "searched_noise",
    "twisted",
]

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffusion import guidance, samplers
from diffusion.guidance.measurements import Measurement
from diffusion.sampling import steering
from diffusion.sampling.steering.noise_search import Generate
from diffusion.sampling.steering.twists import LogReward
from diffusion.schedules import NoiseSchedule

Driver = Callable[..., Any]


class Weighed(NamedTuple):
    """How the particles of a batch of samples were weighed: means over its groups.

    Attributes:
        effective_size: effective sample size before each resampling `[]`, from 1 to the number of particles.
        log_normaliser: logarithm of the estimate of the normalising constant `[]`.
    """

    effective_size: Array
    log_normaliser: Array


def ddrm(measurement: Measurement, y: Array, noise_std: float = 0.0, eta: float = 0.85, eta_b: float = 1.0) -> Driver:
    """`steering.ddrm` along the plan; the config's sampler is not used."""
    steered = steering.ddrm(measurement, y, noise_std, eta, eta_b)
    return lambda sampler, **arguments: samplers.sample(steered, **arguments)


def daps(measurement: Measurement, y: Array, noise_std: float = 0.0, steps: int = 1, data_std: float = 1.0) -> Driver:
    """`steering.daps` with the exact draw; the config's sampler is not used."""
    draw = steering.gaussian_draw(measurement, y, noise_std)
    return lambda sampler, denoise, schedule, x, plan, keys: steering.daps(
        denoise, schedule, x, plan, keys, draw, steps=steps, data_std=data_std
    )


def red_diff(log_reward: LogReward, learning_rate: float = 0.1, scale: float = 0.25) -> Driver:
    """`steering.red_diff` by Adam from zeros, with the log-likelihood as the reward; the sampler is not used."""
    optimizer = optax.adam(learning_rate, b2=0.99)
    return lambda sampler, denoise, schedule, x, plan, keys: steering.red_diff(
        denoise, schedule, log_reward, jnp.zeros_like(x), plan, keys, optimizer, scale=scale
    )


def twisted(log_reward: LogReward, number: int, beta: float = 1.0, pull: float = 0.0) -> Driver:
    """`steering.twisted` with groups of `number` particles, of which each sample draws one.

    Args:
        log_reward: x `[B, ...]` -> reward `[B]`.
        number: number of particles a sample, >= 1.
        beta: temperature of the reward, > 0.
        pull: scale of the reward's gradient in the proposal, as in `guidance.posterior_sampling`; 0: no gradient.
    """
    if number < 1 or not beta > 0:
        raise ValueError(f"twisted: number = {number} must be at least 1, beta = {beta} positive")

    tempered = lambda x: log_reward(x) / beta
    at = lambda denoise: lambda x, t: _over_particles(lambda x: denoise(x, t), number)(x)

    def drive(sampler, denoise, schedule, x, plan, keys):
        if isinstance(denoise, (guidance.Memory, guidance.Unpaired)):
            raise ValueError(
                "twisted needs a plain denoiser. Valid: a guidance such as classifier_free, without a cache"
            )
        pulled = guidance.posterior_sampling(denoise, schedule, tempered, pull) if pull else None
        starts, walks, draws = _keys_of_particles(keys, number)
        particles = steering.twisted(
            sampler,
            at(denoise),
            schedule,
            samplers.prior(schedule, starts, x.shape[1:]),
            plan,
            walks,
            steering.tilt(_over_particles(tempered, number)),
            number=number,
            proposal=None if pulled is None else at(pulled),
        )
        return _drawn(particles, draws)

    return drive


def mcgdiff(measurement: Measurement, y: Array, number: int, noise_std: float = 0.0) -> Driver:
    """`steering.mcgdiff` with groups of `number` particles, of which each sample draws one."""
    if number < 1:
        raise ValueError(f"mcgdiff: number = {number} must be at least 1")

    def drive(sampler, denoise, schedule, x, plan, keys):
        starts, walks, draws = _keys_of_particles(keys, number)
        particles = steering.mcgdiff(
            sampler,
            lambda x, t: _over_particles(lambda x: denoise(x, t), number)(x),
            schedule,
            samplers.prior(schedule, starts, x.shape[1:]),
            plan,
            walks,
            measurement,
            jnp.repeat(y, number, axis=0),
            noise_std,
            number=number,
        )
        return _drawn(particles, draws)

    return drive


def corrected(number: int) -> Driver:
    """`steering.corrected` of the run's product of densities, with groups of `number` particles for each sample.

    The product is `guidance.product` or `guidance.multiplied`. One particle is the plain sum of the scores.
    """
    if number < 1:
        raise ValueError(f"corrected: number = {number} must be at least 1")

    def drive(sampler, denoise, schedule, x, plan, keys):
        if not isinstance(denoise, guidance.Product):
            raise ValueError(
                "corrected weighs a product of densities, and config.sample.guidance and guides make none. Valid: the "
                "guidance product, or the guide multiplied"
            )
        starts, walks, draws = _keys_of_particles(keys, number)
        branches = lambda x, t: _over_particles(lambda x: denoise.branches(x, t), number)(x)
        particles = steering.corrected(
            sampler,
            branches,
            denoise.exponents,
            schedule,
            samplers.prior(schedule, starts, x.shape[1:]) / denoise.total**0.5,
            plan,
            walks,
            number=number,
        )
        return _drawn(particles, draws)

    return drive


def searched_noise(log_reward: LogReward, rounds: int = 1, trials: int = 3, distance: float = 1.0) -> Driver:
    """The sample of the best noise of `steering.searched_noise`; by default best of 4."""

    def drive(keys, **arguments):
        searches, draws = jax.vmap(jax.random.split, out_axes=1)(keys)
        generate, noise = _of_noise(keys=draws, **arguments)
        best, _ = steering.searched_noise(
            generate, log_reward, noise, searches, rounds=rounds, trials=trials, distance=distance
        )
        return generate(best)

    return drive


def optimised_noise(log_reward: LogReward, updates: int = 10, learning_rate: float = 0.1, prior: float = 0.0) -> Driver:
    """The sample of the noise of `steering.optimised_noise`, by plain gradient ascent."""

    def drive(**arguments):
        generate, noise = _of_noise(**arguments)
        best, _ = steering.optimised_noise(
            generate, log_reward, noise, optax.sgd(learning_rate), steps=updates, prior=prior
        )
        return generate(best)

    return drive


def _over_particles(function: Callable[[Array], Any], number: int) -> Callable[[Array], Any]:
    """The function of `[B number, ...]` of one of `[B, ...]`, whose sample b knows its own condition."""
    grouped = lambda x: x.reshape(-1, number, *x.shape[1:])
    every = jax.vmap(function, in_axes=1, out_axes=1)
    return lambda x: jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), every(grouped(x)))


def _keys_of_particles(keys: Array, number: int) -> tuple[Array, Array, Array]:
    """Keys `[B number]` of the particles' first noise and of their steps, and `[B]` of the draw of one of a group."""
    several = jax.vmap(lambda key: jax.random.split(key, 2 * number + 1))(keys)
    starts, walks = (several[:, k : k + number].reshape(-1) for k in (0, number))
    return starts, walks, several[:, -1]


def _drawn(particles: steering.Particles, keys: Array) -> tuple[Array, Weighed]:
    """One particle of each group, and how the particles were weighed."""
    means = Weighed(particles.effective_sizes.mean(), steering.log_normaliser(particles.log_weights).mean())
    return steering.drawn(particles, keys), means


def _of_noise(schedule: NoiseSchedule, x: Array, **arguments: Any) -> tuple[Generate, Array]:
    """Standard normal noise to the sampler's samples, with the same draws on the way, and that noise of x."""
    std = jnp.hypot(schedule.alpha(schedule.t_max), schedule.sigma(schedule.t_max))
    return lambda z: samplers.sample(schedule=schedule, x=std * z, **arguments), x / std
