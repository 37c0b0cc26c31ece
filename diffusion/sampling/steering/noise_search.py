"""Search over a sampler's initial noise: random search, and gradient ascent on the reward."""

__all__ = ["Generate", "optimised_noise", "searched_noise"]

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffusion.arrays.arguments import is_count, require_keys
from diffusion.package import public
from diffusion.sampling.steering.twists import LogReward, rewards
from diffusion.schedules.noise_schedule import as_float

Generate = Callable[[Array], Array]
"""Noise `[B, ...]` -> samples `[B, ...]`, where sample b depends only on noise b, such as `sample` of a flow."""


def searched_noise(
    generate: Generate, log_reward: LogReward, noise: Array, keys: Array, *, rounds: int, trials: int, distance: float
) -> tuple[Array, Array]:
    """Random search near the best noise so far: z' = sqrt(1 - d^2) z + d xi, which preserves N(0, I).

    Distance 1 gives the best of rounds x trials + 1 independent noises; a small distance stays near the best noise.

    Facts:
        nfe: 1 + rounds x trials calls of `generate` for each sample
        paper: Ma et al. 2025, "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps", section
            3.2, zero-order search

    Args:
        generate: noise `[B, ...]` -> samples, deterministic.
        log_reward: samples `[B, ...]` -> rewards `[B]`. A noise whose reward is NaN is left out.
        noise: initial standard normal noise `[B, ...]`.
        keys: random keys `[B]`.
        rounds: number of rounds, >= 1; each round starts from the best noise so far.
        trials: number of neighbours in a round, >= 1.
        distance: distance d of the neighbours, in (0, 1].

    Returns:
        (the best noise `[B, ...]`, its reward `[B]`), where the reward is at least the reward of the initial noise.

    Raises:
        ValueError: if a number is out of range, or keys do not match the batch.
    """
    if not (is_count(rounds) and is_count(trials) and 0 < distance <= 1):
        raise ValueError(
            f"searched_noise: rounds = {rounds} and trials = {trials} must be integers of at least 1, and distance = "
            f"{distance} in (0, 1]"
        )
    require_keys(keys, noise.shape[0], "the search needs one key for each sample")
    noise = as_float(noise)

    def trial(best, number):
        pivot, highest, top = best
        draw = lambda key: jax.random.normal(jax.random.fold_in(key, number), noise.shape[1:], noise.dtype)
        near = (1 - distance**2) ** 0.5 * pivot + distance * jax.vmap(draw)(keys)
        reward = rewards(log_reward, generate(near))
        better = (reward > highest).reshape(-1, *(1,) * (noise.ndim - 1))
        top = jnp.where(better, near, top)
        ends = (number + 1) % trials == 0  # the round ends, and its best noise becomes the pivot
        return (jnp.where(ends, top, pivot), jnp.where(reward > highest, reward, highest), top), None

    begin = rewards(log_reward, generate(noise))
    first = (noise, jnp.where(jnp.isnan(begin), -jnp.inf, begin), noise)
    (_, reward, best), _ = jax.lax.scan(trial, first, jnp.arange(rounds * trials))
    return best, reward


def optimised_noise(
    generate: Generate,
    log_reward: LogReward,
    noise: Array,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    prior: float = 0.0,
) -> tuple[Array, Array]:
    """Gradient ascent on the noise: maximises log_reward(G(z)) + c log p(|z|) through the sampler.

    log p(|z|) = (D - 1) log |z| - |z|^2 / 2 is the log-density of the norm of standard normal noise, which keeps z in
    the range of the training noise. The noise with the largest objective is returned.

    Facts:
        nfe: steps + 1 calls of `generate`, and steps evaluations of its transposed derivative
        paper: Eyring et al. 2024, "ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise
            Optimization", eq. 5; Ben-Hamu et al. 2024, "D-Flow"

    Args:
        generate: noise `[B, ...]` -> samples, differentiable.
        log_reward: samples `[B, ...]` -> rewards `[B]`, differentiable.
        noise: initial standard normal noise `[B, ...]`.
        optimizer: the optimizer, such as `optax.sgd(0.1)`. With one that combines examples, such as global clipping,
            the samples depend on each other.
        steps: number of steps, >= 1.
        prior: weight c of the norm's log-density, >= 0.

    Returns:
        (the best noise `[B, ...]`, its objective `[B]`).

    Raises:
        ValueError: if a number is out of range.
    """
    if not is_count(steps) or not prior >= 0:
        raise ValueError(
            f"optimised_noise: steps = {steps} must be an integer of at least 1, prior = {prior} at least 0"
        )
    noise = as_float(noise)
    axes = tuple(range(1, noise.ndim))

    def objective(z):
        value = rewards(log_reward, generate(z))
        if prior:
            square = jnp.sum(z**2, axis=axes)
            value = value + prior * ((z[0].size - 1) / 2 * jnp.log(square) - square / 2)
        return value

    def better_of(best, z, value):
        better = value > best[1]
        return jnp.where(better.reshape(-1, *(1,) * len(axes)), z, best[0]), jnp.where(better, value, best[1])

    def step(carry, _):
        z, state, best = carry
        value, pull = jax.vjp(objective, z)
        (gradient,) = pull(jnp.ones_like(value))
        best = better_of(best, z, value)
        updates, state = optimizer.update(-gradient, state, z)
        return (optax.apply_updates(z, updates), state, best), None

    worst = (noise, jnp.full(noise.shape[:1], -jnp.inf, noise.dtype))
    (z, _, best), _ = jax.lax.scan(step, (noise, optimizer.init(noise), worst), length=steps)
    return better_of(best, z, objective(z))


public.declare(__name__)
