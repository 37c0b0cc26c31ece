"""Monte Carlo guided diffusion: particles guided by the measured value of each singular direction."""

__all__ = ["mcgdiff"]

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_floats
from diffusion.guidance.measurements import Measurement, require_measurement
from diffusion.package import public
from diffusion.parameterizations import Denoiser, checked
from diffusion.samplers.gaussian_steps import check_one_variance, gaussian_step
from diffusion.samplers.sample import Sampler, check_sampler, normal
from diffusion.sampling.steering.particles import Particles, advance, check, prepared, resampled_steps
from diffusion.sampling.steering.resampling_schemes import USUAL, Resampling
from diffusion.schedules import NoiseSchedule
from diffusion.schedules.noise_schedule import prior_std
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
    """Samples p(x_0 | y) for y = A x_0 + sigma_y n, by groups of K particles whose steps use the measured value.

    Along a singular direction with the value a, the measured value Y = (A^+ y) and its noise l_t = alpha_t sigma_y / a,

        psi_t(x_t) = N(x_t; alpha_t Y, v_t),    v_t = sigma_t^2 + l_t^2,
        q(x_s | x_t) = N((1 - g) m + g alpha_s Y, g v_s),    g = std^2 / (std^2 + v_s),
        w <- w N(m; alpha_s Y, std^2 + v_s) / psi_t(x_t),

    where N(m, std^2) is the sampler's step, which is used unchanged in directions that are not measured. The proposal
    is optimal for this psi, and needs no derivative. The initial particles are drawn from the prior times psi. The
    target is the sampler's distribution on this plan times psi at the end, which is the likelihood at sigma = 0. For
    any K, the estimate of the normaliser is unbiased.

    Without noise this is the paper's algorithm at kappa = 0, and a last step to sigma = 0 inserts the measured value
    without a weight. With noise the paper has v_t = sigma_t^2 - l_t^2 as long as this is positive, then drops psi, and
    weighs by the likelihood at the end; the resulting weights have no finite variance. With v_t = sigma_t^2 + l_t^2,
    psi is never dropped.

    Facts:
        nfe: steps
        paper: Cardoso et al. 2023, "Monte Carlo guided Diffusion for Bayesian linear inverse problems", and the
            authors' code

    Args:
        sampler: sampler whose step is a single Gaussian draw with one evaluation, such as `samplers.ddpm()`.
        denoise: the denoiser (x_t, t) -> Prediction.
        schedule: the process.
        x: samples of the prior at plan.t[0] `[G K, ...]`; the K particles of a group are consecutive.
        plan: the steps, all towards the data.
        keys: random keys `[G K]`.
        measurement: the operator A with the fields `filtered` and `trace`, such as `measurements.pooled(4)`.
        y: the measurements `[G K, ...]`, equal for the particles of a group; that of one example if all share it.
        noise_std: standard deviation sigma_y of the noise, >= 0.
        number: number K of particles in a group, >= 1.
        smallest: singular value up to which a direction counts as not measured, >= 0; at least 1e-3 for
            `measurements.blurred`, whose A^+ is 0 up to there.
        resample: the resampling of a group; systematic resampling if the effective size is below K / 2 by default.

    Returns:
        The weighted particles at plan.s[-1]. Their `log_normaliser` estimates the joint log-density of the measured
        values Y.

    Raises:
        TypeError: under the conditions of `samplers.sample`; if the measurement is no `Measurement`, or y no array of
            floating-point numbers.
        ValueError: under the conditions of `samplers.sample`; if a number is out of range, y has another shape than A x
            or differs within a group, the measurement lacks `filtered` or `trace`, number does not divide the batch,
            the sampler is of another kind, leaves have a schedule each, or the plan renoises; outside of `jit`, if a
            log-weight is NaN or infinity.
    """
    check_sampler(sampler)
    require_measurement(measurement)
    require_floats(y, "y")
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
    if sampler.real is not None:
        raise ValueError("mcgdiff: a measurement reads all of x. Valid: a sampler that is not padded")
    check(sampler, denoise, schedule, x, plan, keys, number)
    check_one_variance("mcgdiff", schedule)
    x, plan = prepared(sampler, x, plan)
    steps = plan.t.shape[0]
    if y.shape == jax.eval_shape(measurement.forward, x).shape and not isinstance(y, Tracer):
        groups = np.asarray(y).reshape(-1, number, *y.shape[1:])
        if (groups != groups[:, :1]).any():
            raise ValueError(
                f"mcgdiff: y differs within a group of {number} particles, which sample one picture. Valid: "
                "jnp.repeat(y, number, axis=0) for the measurements y of the groups"
            )
    Y = measurement.inverse(y.astype(x.dtype), x)

    def split(measured: Callable[[Array], ArrayLike], other: ArrayLike) -> Callable[[Array], Array]:
        """A function of the singular values: `measured` for measured directions, and the value `other` for the rest."""
        return lambda a: jnp.where(a > smallest, measured(jnp.where(a > smallest, a, 1)), other)

    def spread(t: ArrayLike, a: Array) -> Array:
        """v_t of a direction with the singular value a."""
        return schedule.sigma(t) ** 2 + (schedule.alpha(t) * noise_std / a) ** 2

    def log_density(mean: Array, variance: ArrayLike, t: ArrayLike) -> Array:
        """log N(mean; alpha_t Y, variance + v_t) over the measured directions `[B]`."""
        total = lambda a: variance + spread(t, a)
        scaled = along(mean - schedule.alpha(t) * Y, split(lambda a: total(a) ** -0.5, 0))
        constant = trace(split(lambda a: jnp.log(2 * jnp.pi * total(a)), 0), x)
        return -(jnp.sum(scaled**2, axis=tuple(range(1, x.ndim))) + constant) / 2

    def draw(mean: Array, std: ArrayLike, t: ArrayLike, noise: Array) -> Array:
        """A draw of N(mean, std^2) times psi_t; the measured value if psi_t has variance 0."""
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
    std = prior_std(schedule, t)
    zeros = jnp.zeros_like(x)
    begin = ((draw(zeros, std, t, x / std),), log_density(zeros, std**2, t))
    resampled = resampled_steps(schedule, plan)
    (x,), log_weights, sizes = advance(begin, move, keys, steps, resampled, number, resample)
    return Particles(x, log_weights, sizes)


public.declare(__name__)
