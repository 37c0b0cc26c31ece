"""Schedules defined by their log-SNR: an array of values, or a monotone network that is trained with the model."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.parameters import traced
from diffusion.schedules.bisection import bisect, in_unit
from diffusion.schedules.noise_schedule import NoiseSchedule, variance_preserving_from

# The smallest time of training and sampling. At t = 0, the data, sigma is 0, and just above it sigma jumps to its first
# value, as in `variance_exploding`.
T_MIN = 1e-5


def from_log_snr(log_snr: np.ndarray | Array, times: np.ndarray | None = None) -> NoiseSchedule:
    """A variance-preserving process whose log-SNR interpolates linearly between known values.

    Facts:
        alpha: sqrt(sigmoid(log-SNR))
        sigma: sqrt(sigmoid(-log-SNR))
        end: the last log-SNR of the array, which is finite
        paper: Kingma et al. 2021, "Variational Diffusion Models": alpha^2 and sigma^2 are sigmoids of the log-SNR

    Args:
        log_snr: `[N + 1]` finite and strictly decreasing values, which may be traced.
        times: `[N + 1]` strictly increasing times of these values, from 0 to 1; uniform if None.

    Raises:
        ValueError: if the values or the times are not of this form.
    """
    values = log_snr if traced(log_snr) else np.asarray(log_snr, np.float64)
    falls = traced(values) or (np.isfinite(values).all() and np.all(np.diff(values) < 0))
    if values.ndim != 1 or values.size < 2 or not falls:
        raise ValueError(f"from_log_snr: log_snr must be a vector of finite, strictly decreasing values; got {values}")
    times = np.linspace(0, 1, values.size) if times is None else np.asarray(times, np.float64)
    if times.shape != values.shape or times[0] != 0 or times[-1] != 1 or not np.all(np.diff(times) > 0):
        raise ValueError(
            f"from_log_snr: times must be {values.size} strictly increasing numbers from 0 to 1, one for "
            f"each log-SNR; got {times}"
        )

    def interpolate(x, xs, ys):
        return jnp.interp(x, jnp.asarray(xs, x.dtype), jnp.asarray(ys, x.dtype))

    return variance_preserving_from(
        lambda t: interpolate(t, times, values), lambda value: interpolate(-value, -values, times), T_MIN
    )


def init_learned(
    key: Array, log_snr_max: float = 13.3, log_snr_min: float = -5.0, features: int = 1024
) -> Mapping[str, Array]:
    """Initial parameters of a `learned` schedule: its log-SNR is nearly linear in t between the two ends.

    Args:
        key: random key.
        log_snr_max: log-SNR near t = 0; 13.3 in the paper's configs.
        log_snr_min: log-SNR at t = 1, < log_snr_max; -5 in the paper's configs.
        features: width of the hidden layer, >= 1; 1024 in the paper.

    Raises:
        ValueError: if log_snr_min < log_snr_max does not hold for finite numbers, or the layer has no width.
    """
    if not traced(log_snr_max, log_snr_min) and not -math.inf < log_snr_min < log_snr_max < math.inf:
        raise ValueError(
            f"init_learned: log_snr_min = {log_snr_min} must be below log_snr_max = {log_snr_max}, both finite"
        )
    if features < 1:
        raise ValueError(f"init_learned: features = {features} must be at least 1")
    inner, outer = 0.01 * jax.random.normal(key, (2, features), jnp.float32)
    return {
        "log_snr_max": jnp.asarray(log_snr_max, jnp.float32),
        "range": jnp.asarray(log_snr_max - log_snr_min, jnp.float32),
        "slope": jnp.float32(1.0),
        "inner": inner,
        "bias": jnp.zeros(features, jnp.float32),
        "outer": outer,
    }


def learned(params: Mapping[str, Array]) -> NoiseSchedule:
    """A variance-preserving process whose log-SNR is a monotone network of t, with learned ends.

        log-SNR(t) = log_snr_max - range (h(t) - h(0)) / (h(1) - h(0)),
        h(t) = |slope| t + mean(|outer| tanh(|inner| (2 t - 1) + bias))

    The network follows the authors' code. The normalization of appendix I separates the ends, which determine the
    bound, from the shape between them, which changes only the variance of the bound's estimate: the paper trains it to
    reduce this variance, and `config.schedule` keeps it. Build the schedule inside the loss, so that gradients reach
    `params`.

    Facts:
        alpha: sqrt(sigmoid(log-SNR)), log-SNR a monotone network
        sigma: sqrt(sigmoid(-log-SNR))
        end: log-SNR = log_snr_max - range, learned; -5 at first
        paper: Kingma et al. 2021, "Variational Diffusion Models", section 3.2, appendices H and I

    Args:
        params: parameters from `init_learned`.
    """

    def shape(p, t):
        hidden = jnp.tanh(jnp.abs(p["inner"]) * (2 * t[..., None] - 1) + p["bias"])
        return jnp.abs(p["slope"]) * t + jnp.mean(jnp.abs(p["outer"]) * hidden, axis=-1)

    def log_snr(t):
        p = {name: jnp.asarray(value, t.dtype) for name, value in params.items()}
        ends = shape(p, jnp.asarray([0.0, 1.0], t.dtype))
        fraction = (shape(p, t) - ends[0]) / (ends[1] - ends[0])
        return p["log_snr_max"] - jnp.abs(p["range"]) * fraction

    def inverse_log_snr(value):
        ends = log_snr(jnp.asarray([0.0, 1.0], value.dtype))
        target = jnp.clip(value, ends[1], ends[0])

        t, _ = bisect(log_snr, target, jnp.finfo(value.dtype).nmant + 2)
        # One Newton step corrects the last digits, and carries the derivatives with respect to the value and the
        # parameters.
        reached, rate = jax.jvp(log_snr, (t,), (jnp.ones_like(t),))
        return in_unit(t + (target - reached) / jax.lax.stop_gradient(rate))

    return variance_preserving_from(log_snr, inverse_log_snr, T_MIN)
