"""Mixtures of models: each particle follows each model with the posterior probability of that model."""

__all__ = ["mixed"]

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp, ndtr

from diffusion.guidance.branches import Branches, evaluate
from diffusion.package import public
from diffusion.samplers.gaussian_steps import gaussian_step
from diffusion.samplers.padded import reading_real
from diffusion.samplers.sample import Sampler, normal
from diffusion.sampling.steering.particles import Particles, advance, check, prepared, resampled_steps
from diffusion.sampling.steering.resampling_schemes import USUAL, Resampling
from diffusion.schedules import NoiseSchedule, at_each, left_broadcast
from diffusion.timesteps import Plan


def mixed(
    sampler: Sampler,
    branches: Branches,
    shares: Sequence[float],
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    *,
    number: int,
    resample: Resampling = USUAL,
) -> Particles:
    """Samples sum_k b_k p_k(x_0), a mixture of several models, by groups of weighted particles.

    The sum of scores sum_k b_k s_k belongs to a product of densities. The score of the mixture has the posterior
    probability kappa_k of each model at x_t in place of b_k. A path updates kappa_k by the likelihood of each step:

        kappa_k(x_s) ~ kappa_k(x_t) p_k(x_s | x_t),    kappa_k(x_T) = b_k,    p_k(x_s | x_t) = N(mu_k, std^2),
        q(x_s | x_t) = N(sum_k kappa_k mu_k, std^2),    w <- w  sum_k kappa_k p_k(x_s | x_t) / q(x_s | x_t).

    The weights correct the error of finite steps: for any plan, the target is the mixture of the sampler's
    distributions under each model. A step without noise follows model k with probability kappa_k.

    Facts:
        nfe: steps, for each branch
        neutral: one branch, `sample` exactly
        paper: Skreta et al. 2024, "The Superposition of Diffusion Models Using the Ito Density Estimator", section 3,
            the mixture, whose estimator is the limit of small steps

    Args:
        sampler: sampler whose step is a single Gaussian draw with one evaluation, such as `samplers.ddpm()`. The first
            branch determines the standard deviation.
        branches: function that evaluates the denoisers, such as `guidance.separately(...)`.
        shares: shares b_k of the models, positive numbers that sum to 1.
        schedule: the process of all denoisers.
        x: samples at plan.t[0] `[G K, ...]`, where the noised data of every model must follow the prior.
        plan: the steps, all towards the data.
        keys: random keys `[G K]`.
        number: number K of particles in a group, >= 1.
        resample: the resampling of a group; systematic resampling if the effective size is below K / 2 by default.

    Returns:
        The weighted particles at plan.s[-1]; the expected mean of their weights is 1.

    Raises:
        TypeError: under the conditions of `samplers.sample`.
        ValueError: under the conditions of `samplers.sample`; if shares are not positive or do not sum to 1, number
            does not divide the batch, the sampler is of another kind, or the plan renoises; outside of `jit`, if a
            log-weight is NaN or infinity.
    """
    if not all(share > 0 for share in shares) or not math.isclose(math.fsum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"mixed: the shares {tuple(shares)} must be positive and sum to 1")
    check(sampler, branches, schedule, x, plan, keys, number)
    x, plan = prepared(sampler, x, plan)
    steps, count = plan.t.shape[0], len(shares)

    def look(x, t):
        at = at_each(schedule, t, x)
        return evaluate(reading_real(branches, sampler.real), x, at, (count,), f"of the {count} shares")

    def move(carry, i, step_keys):
        x, predictions, log_kappa = carry
        laws = [gaussian_step(sampler, prediction, schedule, x, plan, i) for prediction in predictions]
        means, std = jnp.stack([mean for mean, _ in laws], 1), laws[0][1]
        drawn = std > 0
        kappa = left_broadcast(jnp.exp(log_kappa), means)
        mean = (kappa * means).sum(1)
        shifts = jnp.where(drawn, 1, 0)[:, None] * (means - mean[:, None]) / jnp.where(drawn, std, 1)[:, None]
        noise = normal(step_keys, 1, x)[0]
        uniform = ndtr(noise.reshape(len(x), -1)[:, 0])  # a step without noise uses its noise only for this choice
        model = (jnp.cumsum(jnp.exp(log_kappa), axis=1)[:, :-1] < uniform[:, None]).sum(1)
        x = jnp.where(drawn, mean + std * noise, means[jnp.arange(len(x)), model])
        likelihood = jnp.sum(shifts * (noise[:, None] - shifts / 2), axis=tuple(range(2, means.ndim)))  # log p_k / q
        added = logsumexp(log_kappa + likelihood, axis=1)
        log_kappa = log_kappa + likelihood - added[:, None]
        predictions = jax.lax.cond(i == steps - 1, lambda: predictions, lambda: look(x, plan.s[i]))
        return (x, predictions, log_kappa), added

    log_shares = jnp.broadcast_to(jnp.log(jnp.asarray(shares, x.dtype)), (x.shape[0], count))
    begin = ((x, look(x, plan.t[0]), log_shares), jnp.zeros(x.shape[0], x.dtype))
    carry, log_weights, sizes = advance(begin, move, keys, steps, resampled_steps(schedule, plan), number, resample)
    return Particles(carry[0], log_weights, sizes)


public.declare(__name__)
