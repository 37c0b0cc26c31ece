"""Sequential Monte Carlo for p(x_0) exp(reward), with twists that estimate the reward at noisy times."""

__all__ = ["twisted", "weighed_steps"]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.arguments import require
from diffusion.package import public
from diffusion.parameterizations import Denoiser, Prediction, checked
from diffusion.samplers.gaussian_steps import gaussian_step
from diffusion.samplers.padded import reading_real
from diffusion.samplers.sample import Sampler, normal
from diffusion.sampling.steering.particles import Particles, advance, check, prepared, resampled_steps
from diffusion.sampling.steering.resampling_schemes import USUAL, Resampling
from diffusion.sampling.steering.twists import Twist, rewards
from diffusion.schedules import NoiseSchedule, at_each
from diffusion.timesteps import Plan


def twisted(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    twist: Twist,
    *,
    number: int,
    proposal: Denoiser | None = None,
    resample: Resampling = USUAL,
) -> Particles:
    """Samples p(x_0) exp(reward(x_0)) by groups of K particles, weighted by a twist psi:

        w <- w  p(x_s | x_t) psi_s(x_s) / (q(x_s | x_t) psi_t(x_t)),

    where p is the step of the sampler with `denoise`, q its step with `proposal`, and psi at the end is exp(reward).
    For any twist, proposal and K, the estimate of the normalising constant is unbiased, and weighted means converge as
    K grows. The target tilts the distribution of the sampler on this plan. Particle i draws only from keys[i], and a
    group only from the keys of its particles.

    Without a proposal this is Feynman-Kac steering, whose reward needs no gradient. With the proposal
    `guidance.posterior_sampling(denoise, schedule, log_reward)` it is the twisted diffusion sampler.

    Facts:
        nfe: steps, plus the evaluations of the proposal
        neutral: a reward of zeros without a proposal, `sample` exactly
        paper: Wu et al. 2023, "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models", algorithm
            1; Singhal et al. 2025, "A General Framework for Inference-time Scaling and Steering of Diffusion Models"

    Args:
        sampler: sampler whose step is a single Gaussian draw with one evaluation, such as `samplers.ddpm()`.
        denoise: the denoiser (x_t, t) -> Prediction of p.
        schedule: the process.
        x: samples at plan.t[0] `[G K, ...]`; the K particles of a group are consecutive.
        plan: the steps, all towards the data.
        keys: random keys `[G K]`.
        twist: the target's reward and the twists at noisy times, such as `tilt(log_reward)`.
        number: number K of particles in a group, >= 1.
        proposal: the denoiser of q; None for `denoise`. A step without noise always uses `denoise`.
        resample: the resampling of a group; systematic resampling if the effective size is below K / 2 by default.

    Returns:
        The weighted particles at plan.s[-1].

    Raises:
        TypeError: under the conditions of `samplers.sample`, or if `twist` is no `Twist`, such as a reward.
        ValueError: under the conditions of `samplers.sample`; if number does not divide the batch, the sampler is of
            another kind, or the plan renoises; outside of `jit`, if a log-weight is NaN or infinity.
    """
    check(sampler, denoise, schedule, x, plan, keys, number)
    require(twist, Twist, "twist", "a Twist, such as steering.tilt(log_reward)")
    x, plan = prepared(sampler, x, plan)

    read = lambda denoise: reading_real(checked(denoise), sampler.real)

    def evaluate(x, t):
        prediction = read(denoise)(x, t)
        return prediction, prediction if proposal is None else read(proposal)(x, t)

    def aim(mean, std, x, moved, i):
        return mean if proposal is None else gaussian_step(sampler, moved, schedule, x, plan, i)[0]

    return weighed_steps(sampler, evaluate, aim, schedule, x, plan, keys, twist, number, resample)


def weighed_steps(
    sampler: Sampler,
    evaluate: Callable[[Array, Array], tuple[Prediction, Any]],
    aim: Callable[[Array, Array, Array, Any, Array], Array],
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    twist: Twist,
    number: int,
    resample: Resampling,
) -> Particles:
    """The particles of `twisted` with the proposal q(x_s | x_t) = N(aim, std^2) for the sampler's step N(mean, std^2).

    Args:
        sampler, schedule, twist, number, resample: the arguments of `twisted`, already checked.
        evaluate: (x_t, t) -> (prediction of the denoiser, a pytree that `aim` needs).
        aim: (mean, std, x_t, this pytree, index i of the step) -> mean of the proposal.
        x, plan, keys: samples and plan from `prepared`, and the random keys.
    """
    steps = plan.t.shape[0]

    def look(x, t, memory):
        """The quantities that the next step from x_t needs."""
        prediction, hint = evaluate(x, at_each(schedule, t, x))
        log_psi, memory = twist.apply(memory, x, t, prediction.x0)
        return x, prediction, hint, log_psi, memory

    def move(carry, i, step_keys):
        x, prediction, hint, before, memory = carry
        mean, std = gaussian_step(sampler, prediction, schedule, x, plan, i)
        drawn = std > 0
        shift = jnp.where(drawn, (aim(mean, std, x, hint, i) - mean) / jnp.where(drawn, std, 1), 0)
        noise = normal(step_keys, 1, x)[0]
        x = mean + std * (shift + noise)
        ratio = -jnp.sum(shift * (noise + shift / 2), axis=tuple(range(1, x.ndim)))  # log p(x_s | x_t) / q(x_s | x_t)
        ended = lambda: (x, prediction, hint, rewards(twist.log_reward, x), memory)
        carry = jax.lax.cond(i == steps - 1, ended, lambda: look(x, plan.s[i], memory))
        dead = jnp.isneginf(before)  # a particle with weight 0 keeps it
        return carry, jnp.where(dead, before, ratio + carry[3] - jnp.where(dead, 0, before))

    begin = look(x, plan.t[0], twist.init(x))
    carry, log_weights, sizes = advance(
        (begin, begin[3]), move, keys, steps, resampled_steps(schedule, plan), number, resample
    )
    return Particles(carry[0], log_weights, sizes)


public.declare(__name__)
