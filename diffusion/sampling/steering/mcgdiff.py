"""Monte Carlo guided diffusion: particles that know the measured value of each singular direction from the start."""

__all__ = ["mcgdiff"]

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.guidance.measurements import Measurement
from diffusion.package import public
from diffusion.parameterizations import Denoiser, checked
from diffusion.samplers.gaussian_steps import gaussian_step
from diffusion.samplers.sample import Sampler, normal
from diffusion.sampling.steering.particles import Particles, advance, check, prepared, resampled_steps
from diffusion.sampling.steering.resampling_schemes import USUAL, Resampling
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Plan


def mcgdiff(
    sampler: Sampler,
    denoise: Denoiser,
    schedule: NoiseSchedule,
    x: Array,
    plan: Plan,
    keys: Array,
    measurement: Measurement,
    y: Array,
    noise_std: float = 0.0,
    *,
    number: int,
    smallest: float = 1e-3,
    resample: Resampling = USUAL,
) -> Particles:
    """Carries groups of K particles toward p(x_0 | y) for y = A x_0 + sigma_y n, by steps that see the measured value.

    Along a singular direction of value a, with the measured value Y = (A^+ y) and its noise l_t = alpha_t sigma_y / a,

        psi_t(x_t) = N(x_t; alpha_t Y, v_t),    v_t = sigma_t^2 + l_t^2,
        q(x_s | x_t) = N((1 - g) m + g alpha_s Y, g v_s),    g = std^2 / (std^2 + v_s),
        w <- w N(m; alpha_s Y, std^2 + v_s) / psi_t(x_t),

    where the sampler's step is N(m, std^2), which a direction that is not measured takes as it is. The proposal is the
    best one for this psi, and needs no derivative. The first particles are drawn by psi too. The target is the law of
    the sampler on this plan times psi at the end, which is the likelihood at sigma = 0; for any K the estimate of its
    constant is unbiased.

    Without noise this is the paper's algorithm at kappa = 0, and a last step onto sigma = 0 puts the measured value in
    place without a weight. With noise the paper has v_t = sigma_t^2 - l_t^2 as long as it is positive, drops psi after
    that, and weighs by the likelihood at the end: the weights of such a drop have no finite variance. With
    v_t = sigma_t^2 + l_t^2 nothing is dropped.

    Facts:
        nfe: steps
        paper: Cardoso et al. 2023, "Monte Carlo guided Diffusion for Bayesian linear inverse problems", and the
            authors' code

    Args:
        sampler: a sampler whose step is one Gaussian draw from one evaluation, such as `samplers.ddpm()`.
        denoise: the denoiser (x_t, t) -> Prediction.
        schedule: the process.
        x: samples of the prior at plan.t[0] `[G K, ...]`; the K particles of a group follow one another.
        plan: the steps, all toward the data.
        keys: random keys `[G K]`.
        measurement: the operator A with its `filtered` and `trace`, such as `measurements.pooled(4)`.
        y: the measurement `[G K, ...]`, the same for the particles of a group.
        noise_std: standard deviation sigma_y of the noise, >= 0.
        number: number K of particles a group, >= 1.
        smallest: singular value up to which a direction counts as not measured, >= 0.
        resample: the resampling of a group; the usual one is systematic, where the effective size is below K / 2.

    Returns:
        The weighted particles at plan.s[-1]. Their `log_normaliser` estimates the log-density of the measured values Y
        of all measured directions.

    Raises:
        TypeError: as `samplers.sample`.
        ValueError: as `samplers.sample`; for numbers out of range, a measurement without `filtered` and `trace`, groups
            that do not divide the batch, another kind of sampler, or a plan that renoises; outside of `jit`, for a
            log-weight that is NaN or infinity.
    """
    if not (noise_std >= 0 and smallest >= 0):
        raise ValueError(f"mcgdiff: noise_std = {noise_std} and smallest = {smallest} must be at least 0")
    along, trace = measurement.filtered, measurement.trace
    if along is None or trace is None:
        raise ValueError(
            "mcgdiff uses the singular values of the measurement, which this one does not offer (`filtered`, `trace`). "
            "Valid: the measurements of guidance.measurements, or a Measurement with these functions"
        )
    if sampler.reads_variance:
        raise ValueError("mcgdiff: the sampler's variance differs from number to number. Valid: one variance for all")
    check(sampler, denoise, schedule, x, plan, keys, number)
    x, plan = prepared(x, plan)
    steps = plan.t.shape[0]
    Y = measurement.inverse(y.astype(x.dtype), x)

    def split(measured: Callable[[Array], ArrayLike], other: ArrayLike) -> Callable[[Array], Array]:
        """A function of the singular values: `measured` of those that count, and a number for the other directions."""
        return lambda a: jnp.where(a > smallest, measured(jnp.where(a > smallest, a, 1)), other)

    def spread(t: ArrayLike, a: Array) -> Array:
        """v_t of a direction."""
        return schedule.sigma(t) ** 2 + (schedule.alpha(t) * noise_std / a) ** 2

    def log_density(mean: Array, variance: ArrayLike, t: ArrayLike) -> Array:
        """log N(mean; alpha_t Y, variance + v_t) over the measured directions `[B]`."""
        total = lambda a: variance + spread(t, a)
        scaled = along(mean - schedule.alpha(t) * Y, split(lambda a: total(a) ** -0.5, 0))
        constant = trace(split(lambda a: jnp.log(2 * jnp.pi * total(a)), 0), x)
        return -(jnp.sum(scaled**2, axis=tuple(range(1, x.ndim))) + constant) / 2

    def draw(mean: Array, std: ArrayLike, t: ArrayLike, noise: Array) -> Array:
        """A draw of N(mean, std^2) times psi_t; the measured value where psi_t is a point."""
        gain = lambda a: jnp.where(spread(t, a) > 0, 1 / (1 + spread(t, a) / std**2), 1)
        x = along(mean, split(lambda a: 1 - gain(a), 1))
        x += along(Y, split(lambda a: gain(a) * schedule.alpha(t), 0))
        return x + along(noise, split(lambda a: (gain(a) * spread(t, a)) ** 0.5, std))

    def move(carry, i, step_keys):
        (x,) = carry
        t, s = plan.t[i], plan.s[i]
        mean, std = gaussian_step(sampler, checked(denoise)(x, t), schedule, x, plan, i)
        std = std.ravel()[0]
        weighed = (noise_std > 0) | (schedule.sigma(s) > 0)
        added = jnp.where(weighed, log_density(mean, std**2, s) - log_density(x, 0, t), 0)
        return (draw(mean, std, s, normal(step_keys, 1, x)[0]),), added

    t = plan.t[0]
    std = jnp.hypot(schedule.alpha(t), schedule.sigma(t))  # of the prior
    zeros = jnp.zeros_like(x)
    begin = ((draw(zeros, std, t, x / std),), log_density(zeros, std**2, t))
    resampled = resampled_steps(schedule, plan)
    (x,), log_weights, sizes = advance(begin, move, keys, steps, resampled, number, resample)
    return Particles(x, log_weights, sizes)


public.declare(__name__)
