"""Search over the paths of a stochastic sampler: the candidates with the largest rewards survive each step."""

__all__ = ["searched_paths"]

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.package import public
from diffusion.parameterizations import Denoiser
from diffusion.samplers.sample import Sampler
from diffusion.sampling.steering.particles import best
from diffusion.sampling.steering.twisted import twisted
from diffusion.sampling.steering.twists import LogReward, rewards, tilt
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan


def searched_paths(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    log_reward: LogReward,
    *,
    number: int,
    width: int = 1,
) -> tuple[Array, Array]:
    """Beam search: after each step, the `width` candidates of a group with the best estimated rewards survive.

    Each of them has K / width offspring, which the noise of the next step separates. The best candidate of the last
    step is returned. It does not follow a known distribution: with more candidates, it exploits the reward more. For
    samples of the tilted distribution, use `twisted`.

    Facts:
        nfe: steps, for each candidate
        neutral: number = 1, `sample` exactly
        paper: Li et al. 2024, "Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft
            Value-Based Decoding", algorithm 1 with alpha = 0, for width 1; Ma et al. 2025, "Inference-Time Scaling for
            Diffusion Models beyond Scaling Denoising Steps", search over paths, which adds noise to the candidates

    Args:
        sampler: sampler whose step is a single Gaussian draw with one evaluation, such as `samplers.ddpm()`.
        denoise: the denoiser (x_t, t) -> Prediction.
        schedule: the process.
        x: samples at plan.t[0] `[G K, ...]`; the K candidates of a group are consecutive.
        plan: the steps, all towards the data.
        keys: random keys `[G K]`.
        log_reward: x_0 `[B, ...]` -> rewards `[B]`.
        number: number K of candidates for a sample, >= 1.
        width: number of surviving candidates, >= 1; it divides K.

    Returns:
        (the best candidate of each group `[G, ...]`, its reward `[G]`).

    Raises:
        TypeError, ValueError: under the conditions of `twisted`, or if width does not divide number.
    """
    if width < 1 or number % width:
        raise ValueError(f"searched_paths: width = {width} must be at least 1 and divide number = {number}")

    def largest(key, log_weights):  # with `tilt`, the log-weight is the reward of the estimate
        values, places = jax.lax.top_k(log_weights, width)
        return jnp.repeat(places, number // width), jnp.repeat(values, number // width)

    tilted = tilt(log_reward)
    particles = twisted(sampler, denoise, schedule, x, plan, keys, tilted, number=number, resample=largest)
    # The log-weights are sums over the steps, in which a large early reward rounds the last one away.
    final = rewards(log_reward, particles.x)
    return best(particles, final), final.reshape(-1, number).max(-1)


public.declare(__name__)
