"""Steering by a config: drivers that read measured pictures or a reward in the place of `samplers.sample`.

Each function returns a driver: (sampler=, denoise=, schedule=, x=, plan=, keys=) -> x at the end of the plan, as
`samplers.sample` is one.
"""

__all__ = ["daps", "ddrm", "optimised_noise", "red_diff", "searched_noise", "twisted"]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffusion import guidance, samplers, steering
from diffusion.guidance.measurements import Measurement
from diffusion.schedules import NoiseSchedule
from diffusion.steering.noise_search import Generate
from diffusion.steering.twists import LogReward

Driver = Callable[..., Array]


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

    def over_particles(function):
        """The function of `[B number, ...]` of one of `[B, ...]`, whose sample b knows its own condition."""
        grouped = lambda x: x.reshape(-1, number, *x.shape[1:])
        every = jax.vmap(function, in_axes=1, out_axes=1)
        return lambda x: jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), every(grouped(x)))

    tempered = lambda x: log_reward(x) / beta
    at = lambda denoise: lambda x, t: over_particles(lambda x: denoise(x, t))(x)

    def drive(sampler, denoise, schedule, x, plan, keys):
        if isinstance(denoise, (guidance.Memory, guidance.Unpaired)):
            raise ValueError(
                "twisted needs a plain denoiser. Valid: a guidance such as classifier_free, without a cache"
            )
        pulled = guidance.posterior_sampling(denoise, schedule, tempered, pull) if pull else None
        several = jax.vmap(lambda key: jax.random.split(key, 2 * number + 1))(keys)
        starts, walks = (several[:, k : k + number].reshape(-1) for k in (0, number))
        particles = steering.twisted(
            sampler,
            at(denoise),
            schedule,
            samplers.prior(schedule, starts, x.shape[1:]),
            plan,
            walks,
            steering.tilt(over_particles(tempered)),
            number=number,
            proposal=None if pulled is None else at(pulled),
        )
        return steering.drawn(particles, several[:, -1])

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


def _of_noise(schedule: NoiseSchedule, x: Array, **arguments: Any) -> tuple[Generate, Array]:
    """Standard normal noise to the sampler's samples, with the same draws on the way, and that noise of x."""
    std = jnp.hypot(schedule.alpha(schedule.t_max), schedule.sigma(schedule.t_max))
    return lambda z: samplers.sample(schedule=schedule, x=std * z, **arguments), x / std
