"""DAS (diffusion alignment as sampling): particles with a guided proposal and a tempered reward."""

__all__ = ["das"]

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.package import public
from diffusion.parameterizations import Denoiser, checked
from diffusion.samplers.padded import reading_real
from diffusion.samplers.sample import Sampler
from diffusion.sampling.steering.particles import Particles, check, prepared
from diffusion.sampling.steering.resampling_schemes import USUAL, Resampling
from diffusion.sampling.steering.twisted import weighed_steps
from diffusion.sampling.steering.twists import LogReward, rewards, tilt
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan


def das(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    log_reward: LogReward,
    *,
    number: int,
    gamma: float | None = None,
    resample: Resampling = USUAL,
) -> Particles:
    """Samples p(x_0) exp(r(x_0)) by groups of K weighted particles, with a tempered reward:

        lambda_k = min((1 + gamma)^k - 1, 1) after k steps,    r_t(x_t) = r(x0(x_t)),
        q(x_s | x_t) = N(mu(x_t) + std^2 lambda_k+1 grad r_t(x_t), std^2),
        w <- w  p(x_s | x_t) exp(lambda_k+1 r_s(x_s)) / (q(x_s | x_t) exp(lambda_k r_t(x_t))),

    where p(x_s | x_t) = N(mu, std^2) is the sampler's step. The gradient is a first-order approximation of the best
    proposal, p(x_s | x_t) exp(lambda_k+1 r_s(x_s)). At the end the full reward is applied, so every gamma has the same
    target.

    Facts:
        nfe: steps, each with a transposed derivative
        neutral: a reward of zeros, `sample` exactly
        paper: Kim et al. 2025, "Test-time Alignment of Diffusion Models without Reward Over-optimization", eq. 14, and
            section 4 on tempering

    Args:
        sampler, denoise, schedule, x, plan, keys, number, resample: the arguments of `twisted`.
        log_reward: x_0 `[B, ...]` -> log-reward `[B]`, differentiable; reward / beta for a temperature.
        gamma: rate of the tempering, > 0; if None, 2^(1/N) - 1, for which lambda is 1 after the N steps of the plan.

    Returns:
        The weighted particles at plan.s[-1].

    Raises:
        TypeError, ValueError: under the conditions of `twisted`, or if gamma is not positive.
    """
    check(sampler, denoise, schedule, x, plan, keys, number)
    x, plan = prepared(sampler, x, plan)
    rate = float(2 ** (1 / plan.t.shape[0]) - 1 if gamma is None else gamma)
    if not rate > 0:
        raise ValueError(f"das: gamma = {gamma} must be positive")
    weight = lambda k: jnp.minimum((1 + rate) ** jnp.asarray(k, x.dtype) - 1, 1)

    def evaluate(x, t):
        def estimated(x):
            prediction = reading_real(checked(denoise), sampler.real)(x, t)
            return rewards(log_reward, prediction.x0), prediction

        values, pull, prediction = jax.vjp(estimated, x, has_aux=True)
        return prediction, pull(jnp.ones_like(values))[0]

    def aim(mean, std, x, gradient, i):
        return mean + std**2 * weight(i + 1) * gradient

    tempered = tilt(log_reward, lambda t: weight(jnp.sum(plan.t > t)))
    return weighed_steps(sampler, evaluate, aim, schedule, x, plan, keys, tempered, number, resample)


public.declare(__name__)
