"""What a network predicts: noise, data, v, score, velocity, or EDM's mixture of noise and data."""

__all__ = [
    "clipped_x0",
    "derivatives",
    "edm",
    "epsilon",
    "finite_derivatives",
    "learned_variance",
    "score",
    "v",
    "velocity",
    "x0",
]

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.parameters import traced
from diffusion.package import public
from diffusion.parameterizations.clocks import log_sigma, time
from diffusion.parameterizations.network_outputs import Clock, Parameterization, Prediction, check_kind, read_output
from diffusion.schedules import NoiseSchedule, left_broadcast
from diffusion.schedules.noise_schedule import as_float


def epsilon(clock: Clock | None = None) -> Parameterization:
    """The network predicts the noise: x0 = (x_t - sigma eps) / alpha. Ho et al. 2020, eq. 11.

    Args:
        clock: the time that the network receives; `time()` if None, as in every parameterization except `edm`.
    """

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma = _coefficients(schedule, t, x_t)
        return Prediction((x_t - sigma * output) / alpha, output)

    return Parameterization(
        "epsilon",
        _unscaled,
        clock or time(),
        to_prediction,
        target=lambda schedule, t, x0, eps: eps,
        defined=lambda schedule, t: schedule.alpha(t) > 0,
        needs="alpha(t) > 0, because x0 = (x_t - sigma eps) / alpha",
    )


def x0(clock: Clock | None = None) -> Parameterization:
    """The network predicts the data: eps = (x_t - alpha x0) / sigma. Salimans and Ho 2022, section 4.

    Args:
        clock: the time that the network receives; `time()` if None.
    """

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma = _coefficients(schedule, t, x_t)
        return Prediction(output, (x_t - alpha * output) / sigma)

    return Parameterization(
        "x0",
        _unscaled,
        clock or time(),
        to_prediction,
        target=lambda schedule, t, x0, eps: x0,
        defined=lambda schedule, t: schedule.sigma(t) > 0,
        needs="sigma(t) > 0, because eps = (x_t - alpha x0) / sigma",
    )


def clipped_x0(floor: float = 0.05, clock: Clock | None = None) -> Parameterization:
    """The network predicts the data; its velocity is computed with a divisor of at least `floor`.

        u = (sigma' / w x_t - output) / max(sigma / w, floor),    w = alpha sigma' - sigma alpha'

    and x0, eps follow from u as in `velocity`. For the rectified flow u = (x_t - output) / max(t, floor): above the
    floor the output is x0; below it x0 lies between the output and x_t, and everything stays finite up to the data.
    With the weighting constant(velocity()) the loss is JiT's loss on the velocity. Li and He 2025, "Back to Basics: Let
    Denoising Generative Models Denoise", section 3 and the authors' denoiser.py, whose t_eps is `floor`.

    Args:
        floor: smallest divisor sigma / w, > 0; for the rectified flow, the smallest t.
        clock: the time that the network receives; `time()` if None.

    Raises:
        ValueError: if floor is not positive.
    """
    if not traced(floor) and not floor > 0:
        raise ValueError(f"clipped_x0: floor = {floor} must be positive (0.05 in JiT's code)")
    by_velocity = velocity(clock)

    def scaled(schedule, t, x_t):
        """sigma' / w x_t, and max(sigma / w, floor)."""
        _, sigma = _coefficients(schedule, t, x_t)
        _, sigma_dot, w, _ = finite_derivatives(schedule, t, x_t)
        return sigma_dot / w * x_t, jnp.maximum(sigma / w, floor)

    def to_prediction(schedule, t, x_t, output):
        x, left = scaled(schedule, t, x_t)
        return by_velocity.to_prediction(schedule, t, x_t, (x - output) / left)

    def target(schedule, t, x0, eps):
        alpha, sigma = _coefficients(schedule, t, x0)
        x, left = scaled(schedule, t, alpha * x0 + sigma * eps)
        return x - left * by_velocity.target(schedule, t, x0, eps)

    return by_velocity._replace(name="clipped_x0", to_prediction=to_prediction, target=target)


def v(clock: Clock | None = None) -> Parameterization:
    """The network predicts v = alpha eps - sigma x0, whose conversion divides by neither alpha nor sigma.

        x0 = (alpha x_t - sigma v) / (alpha^2 + sigma^2),    eps = (sigma x_t + alpha v) / (alpha^2 + sigma^2)

    Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", appendix D, with
    alpha^2 + sigma^2 = 1 there.

    Args:
        clock: the time that the network receives; `time()` if None.
    """

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma = _coefficients(schedule, t, x_t)
        norm = alpha**2 + sigma**2
        return Prediction((alpha * x_t - sigma * output) / norm, (sigma * x_t + alpha * output) / norm)

    def target(schedule, t, x0, eps):
        alpha, sigma = _coefficients(schedule, t, x0)
        return alpha * eps - sigma * x0

    return Parameterization("v", _unscaled, clock or time(), to_prediction, target, _always, "nothing")


def score(clock: Clock | None = None) -> Parameterization:
    """The network predicts the score of q(x_t): eps = -sigma score, x0 = (x_t + sigma^2 score) / alpha.

    The score is -E[eps | x_t] / sigma only where eps was drawn independently of x_0. Song et al. 2021, eq. 7.

    Args:
        clock: the time that the network receives; `time()` if None.
    """

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma = _coefficients(schedule, t, x_t)
        return Prediction((x_t + sigma**2 * output) / alpha, -sigma * output)

    def target(schedule, t, x0, eps):
        return -eps / left_broadcast(schedule.sigma(t), eps)

    return Parameterization(
        "score",
        _unscaled,
        clock or time(),
        to_prediction,
        target,
        defined=lambda schedule, t: (schedule.alpha(t) > 0) & (schedule.sigma(t) > 0),
        needs="alpha(t) > 0 and sigma(t) > 0, because x0 = (x_t + sigma^2 score) / alpha and score = -eps / sigma",
    )


def velocity(clock: Clock | None = None) -> Parameterization:
    """The network predicts the flow's velocity u = alpha' x0 + sigma' eps, with derivatives in t.

        x0 = (sigma' x_t - sigma u) / w,    eps = (alpha u - alpha' x_t) / w,    w = alpha sigma' - sigma alpha'

    For the rectified flow u = eps - x0 and w = 1 at every t. Where sigma has an infinite slope at t = 0, as in
    `schedules.cosine`, u is infinite there. The prediction is then the limit for any finite output: x0 = x_t / alpha
    and eps = 0. Where both slopes are 0 at t = 0, as for alpha = 1 - t^2 and sigma = t^2, u says nothing about eps
    there, and the prediction is the same. Lipman et al. 2023, "Flow Matching for Generative Modeling", eq. 23; Ma et
    al. 2024, "SiT".

    Args:
        clock: the time that the network receives; `time()` if None.
    """

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma = _coefficients(schedule, t, x_t)
        alpha_dot, sigma_dot, w, limit = finite_derivatives(schedule, t, x_t)
        noise = (alpha * output - alpha_dot * x_t) / w
        return Prediction((sigma_dot * x_t - sigma * output) / w, jnp.where(limit, 0, noise))

    def target(schedule, t, x0, eps):
        alpha_dot, sigma_dot = derivatives(schedule, t, x0)
        return alpha_dot * x0 + sigma_dot * eps

    def defined(schedule, t):
        alpha_dot, sigma_dot = derivatives(schedule, t, jnp.asarray(t))
        w = schedule.alpha(t) * sigma_dot - schedule.sigma(t) * alpha_dot
        return jnp.isfinite(w) & (w != 0)

    return Parameterization(
        "velocity",
        _unscaled,
        clock or time(),
        to_prediction,
        target,
        defined,
        needs="alpha sigma' - sigma alpha' finite and not zero at t",
    )


def edm(sigma_data: float = 0.5, clock: Clock | None = None) -> Parameterization:
    """EDM's preconditioning, for any schedule.

    With y = x_t / alpha and s = sigma / alpha,

        x0 = c_skip(s) y + c_out(s) F(c_in(s) y, c_noise(s)),
        c_skip = sigma_data^2 / (s^2 + sigma_data^2),    c_out = s sigma_data / sqrt(s^2 + sigma_data^2),
        c_in = 1 / sqrt(s^2 + sigma_data^2),             c_noise = ln(s) / 4.

    Written in alpha and sigma, no term divides by either. Karras et al. 2022, eq. 7 and table 1.

    Args:
        sigma_data: standard deviation of the data, > 0.
        clock: the time that the network receives; `log_sigma()` if None, as in the paper.

    Raises:
        ValueError: if sigma_data is not positive.
    """
    if not traced(sigma_data) and not sigma_data > 0:
        raise ValueError(f"edm preconditioning: sigma_data = {sigma_data} must be positive (0.5 in the paper)")

    def variance(alpha, sigma):
        return alpha**2 * sigma_data**2 + sigma**2

    def input_scale(schedule, t):
        return 1 / jnp.sqrt(variance(schedule.alpha(t), schedule.sigma(t)))

    def to_prediction(schedule, t, x_t, output):
        alpha, sigma = _coefficients(schedule, t, x_t)
        var = variance(alpha, sigma)
        scaled = sigma_data * output / jnp.sqrt(var)
        return Prediction(alpha * sigma_data**2 / var * x_t + sigma * scaled, sigma / var * x_t - alpha * scaled)

    def target(schedule, t, x0, eps):
        alpha, sigma = _coefficients(schedule, t, x0)
        return (sigma * x0 - alpha * sigma_data**2 * eps) / (sigma_data * jnp.sqrt(variance(alpha, sigma)))

    return Parameterization("edm", input_scale, clock or log_sigma(), to_prediction, target, _always, "nothing")


def learned_variance(parameterization: Parameterization) -> Parameterization:
    """The network has twice the channels: the first half is read by `parameterization`, the second is the variance.

    The second half o in [-1, 1] gives `Prediction.variance` = (o + 1) / 2. `target` is the target of the first half.
    Nichol and Dhariwal 2021, eq. 15, in the scaling of the authors' code; DiT's "learned sigma".

    Args:
        parameterization: the parameterization of the first C of the 2 C output channels.
    """
    check_kind(parameterization)

    def to_prediction(schedule, t, x_t, output):
        mean, fraction = jnp.split(read_output(output, x_t, 2), 2, axis=-1)
        prediction = parameterization.to_prediction(schedule, t, x_t, mean)
        return prediction._replace(variance=(fraction + 1) / 2)

    return parameterization._replace(name="learned_variance", to_prediction=to_prediction, channels=2)


def derivatives(schedule: NoiseSchedule, t: ArrayLike, x: Array) -> tuple[Array, Array]:
    """d alpha / dt and d sigma / dt, shaped to multiply x example by example.

    Args:
        schedule: the process.
        t: times in [0, t_max], `[]`, `[B]`, or `[B, F]` with a time for each frame.
        x: array `[B, ...]`, which gives the shape.
    """
    t = as_float(t)
    one = jnp.ones_like(t)
    rate = lambda f: left_broadcast(jax.jvp(f, (t,), (one,))[1], x)
    return rate(schedule.alpha), rate(schedule.sigma)


def finite_derivatives(schedule: NoiseSchedule, t: ArrayLike, x: Array) -> tuple[Array, Array, Array, Array]:
    """alpha', sigma', w = alpha sigma' - sigma alpha', up to a common factor, and where this factor is not 1.

    The factor is 1, except at the data (sigma = 0) if w is infinite or 0 there: then alpha' = 0, sigma' = 1 and
    w = alpha stand for the limit.

    Args:
        schedule, t, x: the process, the times and the array that gives the shape, as in `derivatives`.

    Returns:
        (alpha', sigma', w, Bool), each in the shape that multiplies x example by example.
    """
    alpha, sigma = _coefficients(schedule, t, x)
    alpha_dot, sigma_dot = derivatives(schedule, t, x)
    w = alpha * sigma_dot - sigma * alpha_dot
    limit = (sigma == 0) & (~jnp.isfinite(w) | (w == 0))
    return jnp.where(limit, 0, alpha_dot), jnp.where(limit, 1, sigma_dot), jnp.where(limit, alpha, w), limit


def _coefficients(schedule: NoiseSchedule, t: ArrayLike, x: Array) -> tuple[Array, Array]:
    return left_broadcast(schedule.alpha(t), x), left_broadcast(schedule.sigma(t), x)


def _unscaled(schedule: NoiseSchedule, t: ArrayLike) -> Array:
    return jnp.ones_like(schedule.alpha(t))


def _always(schedule: NoiseSchedule, t: ArrayLike) -> Array:
    return jnp.ones(jnp.shape(t), bool)


public.declare(__name__)
