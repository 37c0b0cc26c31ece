"""A schedule from alpha and sigma alone: automatic differentiation and bisection supply its other functions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.arrays.parameters import traced
from diffusion.schedules.bisection import bisect, in_unit
from diffusion.schedules.noise_schedule import INSIDE, NoiseSchedule, as_float, normal

Coefficient = Callable[[Array], Array]
"""t, float of any shape -> alpha or sigma of the same shape, elementwise and differentiable."""


def from_alpha_sigma(alpha: Coefficient, sigma: Coefficient, t_min: float | None = None) -> NoiseSchedule:
    """The process with any coefficients alpha(t) and sigma(t), for t in [0, 1], whose log-SNR decreases.

        log-SNR = 2 ln(alpha / sigma),    f = alpha' / alpha,    g^2 = (sigma^2)' - 2 f sigma^2

    The derivatives are automatic. The inverse of the log-SNR is found by bisection and one Newton step. The Newton step
    carries the derivatives, so alpha and sigma may contain trained parameters, as in `learned`. Write sigma without
    cancellation near the data: sqrt((1 - alpha) (1 + alpha)), not sqrt(1 - alpha^2).

    Facts:
        alpha: the argument `alpha`
        sigma: the argument `sigma`
        end: alpha(1) and sigma(1)
        paper: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", eq. 5, for
            drift and diffusion of any process; Kingma et al. 2021, "Variational Diffusion Models", appendix A

    Args:
        alpha: t -> signal coefficient in [0, 1], written with jax.numpy, for arrays of times in [0, 1].
        sigma: t -> noise standard deviation, >= 0. If sigma(0) > 0, the schedule's sigma is 0 at t = 0, the data, and
            jumps to this value just after it.
        t_min: smallest time at which a network is trained or evaluated. If None, it is 0 if alpha(0) = 1 and sigma(0) =
            0, and 1e-5 otherwise.

    Raises:
        TypeError: if alpha or sigma is not a function, or not written with jax.numpy.
        ValueError: if they are not elementwise, not finite, or the log-SNR does not decrease from 0 to 1, or t_min is
            out of range.
    """
    for name, function in (("alpha", alpha), ("sigma", sigma)):
        if not callable(function):
            raise TypeError(
                f"from_alpha_sigma: {name} must be a function of t, such as lambda t: 1 - t; got {function!r}"
            )
    if t_min is not None and not traced(t_min) and not 0 <= t_min < 1:
        raise ValueError(f"from_alpha_sigma: t_min = {t_min} must be in [0, 1), the times of the schedule")
    a, s = _values(alpha, sigma, np.linspace(0, 1, 257))
    reaches = bool(a is not None and abs(a[0] - 1) < 1e-6 and s[0] == 0)
    vanishes = bool(a is not None and a[-1] < 1e-6)
    t_min = (0.0 if reaches else 1e-5) if t_min is None else t_min

    def signal(t):
        t = as_float(t)
        value = alpha(t if reaches else jnp.where(t > 0, t, 1.0))
        # cos(pi / 2) is -4e-8 in float32 and 6e-17 in float64 instead of 0.
        exact = jnp.where(vanishes & (t >= 1), 0, jnp.maximum(value, 0))
        value = value + jax.lax.stop_gradient(exact - value)
        return value if reaches else jnp.where(t > 0, value, 1.0)

    def noise(t):
        t = as_float(t)
        return sigma(t) if reaches else jnp.where(t > 0, sigma(jnp.where(t > 0, t, 1.0)), 0.0)

    def log_snr(t):
        return 2 * (jnp.log(signal(t)) - jnp.log(noise(t)))

    def drift(t):
        value, rate = _with_rate(signal, t)
        return jnp.where(value > 0, rate / jnp.where(value > 0, value, 1), -jnp.inf)

    def diffusion(t):
        t = as_float(t)
        _, rate = _with_rate(noise, t)
        # Where sigma' is infinite at the data, sigma sigma' has a limit, which a time just inside has to four digits.
        t = jnp.where((t > 0) | jnp.isfinite(rate), t, INSIDE)
        value, rate = _with_rate(noise, t)
        square = 2 * value * (rate - drift(t) * value)
        return jnp.sqrt(jnp.maximum(square, 0))  # rounding

    inverse = jax.jit(_inverse(log_snr))

    def norm(a, b):
        on = inverse(2 * (jnp.log(a) - jnp.log(b)))
        return (a + b) / (signal(on) + noise(on))

    kind = _kind(a, s) or norm
    return NoiseSchedule(
        alpha=signal,
        sigma=noise,
        log_snr=log_snr,
        inverse_log_snr=lambda value: inverse(as_float(value)),
        drift=drift,
        diffusion=diffusion,
        t_min=t_min,
        t_max=1.0,
        prior=normal(1.0) if kind is jnp.hypot else lambda key, shape: noise(1.0) * normal(1.0)(key, shape),
        norm=kind,
    )


def _values(alpha: Coefficient, sigma: Coefficient, times: np.ndarray) -> tuple:
    """alpha and sigma at the times, checked; (None, None) where they are traced and have no values yet."""
    with jax.ensure_compile_time_eval():
        t = as_float(jnp.asarray(times))
        for name, function in (("alpha", alpha), ("sigma", sigma)):
            try:
                jax.eval_shape(function, t)
            except (TypeError, ValueError) as error:  # what NumPy and `if` raise for traced arrays
                raise TypeError(
                    f"from_alpha_sigma: {name} must be written with jax.numpy, for arrays of times; for {t.shape[0]} "
                    f"times it raised: {str(error).splitlines()[0]}"
                ) from error
        values = alpha(t), sigma(t)
    for name, value in zip(("alpha", "sigma"), values, strict=True):
        if jnp.shape(value) != times.shape:
            raise ValueError(
                f"from_alpha_sigma: for times of shape {times.shape}, {name} has the shape {jnp.shape(value)}. It "
                "must be elementwise; write a constant as jnp.ones_like(t)"
            )
    if any(isinstance(value, Tracer) for value in values):
        return None, None
    a, s = (np.asarray(value, np.float64) for value in values)
    inside_a = (a > np.where(times < times[-1], 0, -1e-6)) & (a < 1 + 1e-6)  # false for NaN
    inside_s = np.isfinite(s) & ((s > 0) | ((s == 0) & (times == times[0])))
    if not (inside_a & inside_s).all():
        i = int(np.argmin(inside_a & inside_s))
        raise ValueError(
            "from_alpha_sigma: the coefficients must be finite, with 0 < alpha <= 1 and sigma > 0 inside (0, 1); here, "
            f"at t = {times[i]:g}, alpha = {a[i]:g} and sigma = {s[i]:g}"
        )
    ratio = s[:-1] / a[:-1]
    if not (np.diff(ratio) > 0).all():
        i = int(np.argmin(np.diff(ratio) > 0))
        raise ValueError(
            "from_alpha_sigma: sigma / alpha must grow with t, from the data at t = 0; here it goes from "
            f"{ratio[i]:g} at t = {times[i]:g} to {ratio[i + 1]:g} at t = {times[i + 1]:g}"
        )
    return a, s


def _kind(a: np.ndarray | None, s: np.ndarray) -> Callable | None:
    """The norm of a known kind of process (quarter circles, straight lines, or alpha = 1); None for any other."""
    if a is None:
        return None
    kinds = ((jnp.hypot, np.hypot(a, s)), (jnp.add, a + s), (_first, a))
    return next((kind for kind, values in kinds if np.allclose(values[1:], 1, rtol=0, atol=2e-7)), None)


def _first(a: Array, b: Array) -> Array:
    return a + jnp.zeros_like(b)


def _with_rate(function: Coefficient, t: ArrayLike) -> tuple[Array, Array]:
    t = as_float(t)
    return jax.jvp(function, (t,), (jnp.ones_like(t),))


def _inverse(log_snr: Coefficient) -> Coefficient:
    """log-SNR -> t in [0, 1], differentiable."""

    def inverse(value):
        inside = jnp.isfinite(value) & (value >= log_snr(jnp.ones_like(value)))
        target = jnp.where(inside, value, log_snr(jnp.full_like(value, 0.5)))

        # One halving for each bit of the mantissa, and about 40 more, so that times down to 2^-40 have all their
        # digits.
        _, t = bisect(log_snr, target, jnp.finfo(value.dtype).nmant + 42)
        # The Newton step carries the derivatives with respect to the value and to the parameters of alpha and sigma. At
        # alpha = 0, where the slope is infinite, t does not change.
        reached, rate = jax.jvp(log_snr, (t,), (jnp.ones_like(t),))
        step = jnp.isfinite(reached) & jnp.isfinite(rate) & (rate < 0)
        slope = jax.lax.stop_gradient(jnp.where(step, rate, -1))
        t = t + jnp.where(step, (target - jnp.where(step, reached, 0)) / slope, 0)
        return jnp.where(inside, in_unit(t), jnp.where(value > 0, 0.0, 1.0)).astype(value.dtype)

    return inverse
