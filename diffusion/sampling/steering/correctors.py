"""Feynman-Kac correctors: asymptotically exact samples of products, powers and guided combinations of densities."""

__all__ = ["corrected"]

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from diffusion.arrays import padding
from diffusion.guidance.branches import Branches
from diffusion.guidance.density_products import product
from diffusion.package import public
from diffusion.samplers.gaussian_steps import check_one_variance, gaussian_step
from diffusion.samplers.padded import reading_real
from diffusion.samplers.sample import Sampler, check_sampler, normal
from diffusion.sampling.steering.particles import Particles, advance, check, prepared, resampled_steps
from diffusion.sampling.steering.resampling_schemes import USUAL, Resampling
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan


def corrected(
    sampler: Sampler,
    branches: Branches,
    exponents: Sequence[float],
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    *,
    number: int,
    resample: Resampling = USUAL,
) -> Particles:
    """Samples prod_k p_k(x_0)^(b_k), a product of powers of the denoisers' densities, by groups of weighted particles.

    The process whose score is the sum of the scores does not have these marginals, because the p_k are noised before
    the product is taken. With S = sum_k b_k s_k, B = sum_k b_k and D dimensions, the reverse equation dx = (f x - g^2
    S) dt + g dW has the marginals prod_k p_k,t^(b_k) if its paths have the weights

        d log w = g^2/2 (|S|^2 - sum_k b_k |s_k|^2) |dt| + (B - 1) D f |dt|,

    which contain no divergence. Exponents (w, 1 - w) of a conditional and an unconditional denoiser are classifier-free
    guidance, (1, 1) is a product, (b,) is a power, and a negative exponent divides by a density. The drift is
    discretised by the sampler, with weak order 1; the weight is integrated in the log-SNR by the trapezoidal rule.

    Facts:
        nfe: steps, for each branch
        neutral: one branch with exponent 1, `sample` exactly
        paper: Skreta et al. 2025, "Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts",
            propositions 3.1 to 3.3

    Args:
        sampler: sampler of the reverse equation with one Gaussian draw and one evaluation per step, such as
            `samplers.ddpm()` or `samplers.euler_maruyama()`.
        branches: function that evaluates the denoisers, such as `guidance.separately(...)`.
        exponents: exponents b_k, one for each denoiser, with B > 0.
        schedule: the process of all denoisers.
        x: samples at plan.t[0] `[G K, ...]` from N(0, sigma^2 / B): `samplers.prior(...)` divided by sqrt(B).
        plan: the steps, all towards the data; if B is not 1, it must start at alpha > 0.
        keys: random keys `[G K]`.
        number: number K of particles a group, >= 1.
        resample: the resampling of a group; the usual one is systematic, where the effective size is below K / 2.

    Returns:
        The weighted particles at plan.s[-1]. Their `log_normaliser` estimates the log of the integral of prod_k
        p_k^(b_k) over x_0, minus its value at plan.t[0], which is D/2 ((1 - B) log(2 pi sigma^2) - log B) if x is pure
        noise there.

    Raises:
        TypeError: under the conditions of `samplers.sample`.
        ValueError: under the conditions of `samplers.sample`; if B is not positive, number does not divide the batch,
            the sampler is of another kind, leaves have a schedule each, or the plan renoises or starts at alpha = 0
            with B not 1; outside of `jit`, if a log-weight is NaN or infinity.
    """
    check_sampler(sampler)
    combined = product(reading_real(branches, sampler.real), schedule, exponents)
    total = combined.total
    check(sampler, combined, schedule, x, plan, keys, number)
    check_one_variance("corrected", schedule)
    with jax.ensure_compile_time_eval():
        vanished = schedule.alpha(plan.t[0]) <= 0
    if total != 1 and not isinstance(vanished, Tracer) and vanished:
        raise ValueError(
            f"corrected: the exponents {combined.exponents} sum to {total:g}, and the plan starts at alpha = 0, where "
            "there is a density only if they sum to 1. Valid: a plan that starts where alpha > 0"
        )
    x, plan = prepared(sampler, x, plan)
    steps = plan.t.shape[0]
    dimensions = x[0].size if sampler.real is None else padding.count(sampler.real, x)

    def move(carry, i, step_keys):
        x, prediction, before = carry
        t, s = plan.t[i], plan.s[i]
        mean, std = gaussian_step(sampler, prediction, schedule, x, plan, i)
        x = mean + std * normal(step_keys, 1, x)[0]
        carry = jax.lax.cond(i == steps - 1, lambda: (x, prediction, before), lambda: (x, *combined.with_excess(x, s)))
        after = carry[2]
        begins, ends = schedule.alpha(t) <= 0, schedule.sigma(s) <= 0
        step = jnp.where(begins | ends, 0, schedule.log_snr(s) - schedule.log_snr(t))
        # Near an infinite log-SNR the excess decays as exp(-|log-SNR|), so its integral equals the excess.
        added = jnp.where(begins, after, jnp.where(ends, before, (before + after) / 2 * step))
        if total != 1:
            growth = jnp.log(schedule.alpha(t)) - jnp.log(schedule.alpha(s))
            added = added + (total - 1) * jnp.asarray(dimensions, growth.dtype) * growth
        return carry, added

    first = (x, *combined.with_excess(x, plan.t[0]))
    begin = (first, jnp.zeros_like(first[2]))
    resampled = resampled_steps(schedule, plan)
    carry, log_weights, sizes = advance(begin, move, keys, steps, resampled, number, resample)
    return Particles(carry[0], log_weights, sizes)


public.declare(__name__)
