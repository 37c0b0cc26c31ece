"""Search over the paths of a stochastic sampler: the candidates of each step with the largest rewards go on."""

__all__ = ["searched_paths"]

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.package import public
from diffusion.parameterizations import Denoiser
from diffusion.samplers.sample import Sampler
from diffusion.sampling.steering.particles import best
from diffusion.sampling.steering.twisted import twisted
from diffusion.sampling.steering.twists import LogReward, tilt
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
    """Beam search: after each step the `width` candidates of a group with the largest reward of their estimate go on.

    Each of them has K / width offspring, which the noise of the next step parts. The last step's best candidate is
    returned. It has no law: the more candidates, the more it exploits the reward. `twisted` has the tilted one.

    Facts:
        nfe: steps, of each candidate
        neutral: number = 1, `sample` exactly
        paper: Li et al. 2024, "Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft
            Value-Based Decoding", algorithm 1 with alpha = 0, for width 1; Ma et al. 2025, "Inference-Time Scaling for
            Diffusion Models beyond Scaling Denoising Steps", search over paths, which adds noise to them on the way

    Args:
        sampler: a sampler whose step is one Gaussian draw from one evaluation, such as `samplers.ddpm()`.
        denoise: the denoiser (x_t, t) -> Prediction.
        schedule: the process.
        x: samples at plan.t[0] `[G K, ...]`; the K candidates of a group follow one another.
        plan: the steps, all toward the data.
        keys: random keys `[G K]`.
        log_reward: x_0 `[B, ...]` -> rewards `[B]`.
        number: number K of candidates of a sample, >= 1.
        width: number of candidates that go on, which divides K.

    Returns:
        (the best candidate of each group `[G, ...]`, its reward `[G]`).

    Raises:
        TypeError, ValueError: as `twisted`; for a width that does not divide the candidates.
    """
    if width < 1 or number % width:
        raise ValueError(f"searched_paths: width = {width} must be at least 1 and divide number = {number}")

    def largest(key, log_weights):  # of a tilt the log-weight is the reward of the estimate
        values, places = jax.lax.top_k(log_weights, width)
        return jnp.repeat(places, number // width), jnp.repeat(values, number // width)

    tilted = tilt(log_reward)
    particles = twisted(sampler, denoise, schedule, x, plan, keys, tilted, number=number, resample=largest)
    return best(particles, particles.log_weights.ravel()), particles.log_weights.max(-1)


public.declare(__name__)
