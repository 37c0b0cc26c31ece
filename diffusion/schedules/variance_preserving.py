"""The stochastic differential equations of Song et al. with a linear beta(t): variance preserving and sub-VP."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion.arrays.parameters import functions_of, traced
from diffusion.schedules.noise_schedule import NoiseSchedule, as_float, normal, with_data_end

# The authors' code trains down to this time, where sigma is 1e-3 (variance preserving) and 1e-6 (sub-VP).
T_MIN = 1e-5


def variance_preserving(beta_min: float = 0.1, beta_max: float = 20.0) -> NoiseSchedule:
    """dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw with beta(t) linear, for t in [0, 1].

        alpha = e^(-B(t) / 2),    sigma^2 = 1 - e^(-B(t)),
        B(t) = int_0^t beta = beta_min t + (beta_max - beta_min) t^2 / 2

    This is the limit of DDPM's process for many steps, with beta_i = beta(i / T) / T.

    Facts:
        alpha: exp(-B(t) / 2), B(t) = beta_min t + (beta_max - beta_min) t^2 / 2
        sigma: sqrt(1 - exp(-B(t)))
        end: alpha = 0.00657, sigma = 0.99998 with the paper's betas
        paper: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", eq. 11

    Args:
        beta_min: beta(0), > 0.
        beta_max: beta(1), >= beta_min.

    Raises:
        ValueError: if 0 < beta_min <= beta_max < inf does not hold.
    """
    beta, integral = _linear_beta("variance_preserving", beta_min, beta_max)
    return NoiseSchedule(
        alpha=lambda t: jnp.exp(-integral(t) / 2),
        sigma=with_data_end(lambda t: jnp.sqrt(-jnp.expm1(-integral(t))), 0.0, math.inf),
        log_snr=with_data_end(lambda t: -integral(t) - jnp.log(-jnp.expm1(-integral(t))), math.inf, -math.inf),
        inverse_log_snr=lambda log_snr: _time(beta_min, beta_max, jax.nn.softplus(-as_float(log_snr))),
        drift=lambda t: -beta(t) / 2,
        diffusion=lambda t: jnp.sqrt(beta(t)),
        t_min=T_MIN,
        t_max=1.0,
        prior=normal(1.0),
        norm=jnp.hypot,
    )


def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0) -> NoiseSchedule:
    """dx = -beta(t) x / 2 dt + sqrt(beta(t) (1 - e^(-2 B(t)))) dw: alpha as in `variance_preserving`, less noise.

        alpha = e^(-B(t) / 2),    sigma = 1 - e^(-B(t)) = 1 - alpha^2,    B(t) = int_0^t beta

    sigma is a standard deviation, not a variance. This process is not the limit of a discrete one.

    Facts:
        alpha: exp(-B(t) / 2), B(t) = beta_min t + (beta_max - beta_min) t^2 / 2
        sigma: 1 - alpha^2
        end: alpha = 0.00657, sigma = 0.99996 with the paper's betas
        paper: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", eq. 12

    Args:
        beta_min: beta(0), > 0.
        beta_max: beta(1), >= beta_min.

    Raises:
        ValueError: if 0 < beta_min <= beta_max < inf does not hold.
    """
    beta, integral = _linear_beta("sub_vp", beta_min, beta_max)

    def inverse_log_snr(log_snr):
        log_snr = as_float(log_snr)
        ratio = jnp.exp(-jnp.maximum(log_snr, -60) / 2)  # sigma / alpha = e^(B/2) - e^(-B/2) = 2 sinh(B / 2)
        return _time(beta_min, beta_max, jnp.where(log_snr < -60, -log_snr, 2 * jnp.arcsinh(ratio / 2)))

    return NoiseSchedule(
        alpha=lambda t: jnp.exp(-integral(t) / 2),
        sigma=lambda t: -jnp.expm1(-integral(t)),
        log_snr=with_data_end(lambda t: -integral(t) - 2 * jnp.log(-jnp.expm1(-integral(t))), math.inf, -math.inf),
        inverse_log_snr=inverse_log_snr,
        drift=lambda t: -beta(t) / 2,
        diffusion=lambda t: jnp.sqrt(beta(t) * -jnp.expm1(-2 * integral(t))),
        t_min=T_MIN,
        t_max=1.0,
        prior=normal(-functions_of(beta_min, beta_max).expm1(-(beta_min + beta_max) / 2)),
        norm=lambda a, b: (b + jnp.hypot(b, 2 * a)) / 2,  # solves b / n = 1 - (a / n)^2
    )


def _linear_beta(name: str, beta_min: float, beta_max: float) -> tuple[Callable, Callable]:
    """t -> beta(t), and t -> its integral B(t)."""
    if not traced(beta_min, beta_max) and not 0 < beta_min <= beta_max < math.inf:
        raise ValueError(f"{name}: beta_min = {beta_min}, beta_max = {beta_max}. Valid: 0 < beta_min <= beta_max < inf")
    slope = beta_max - beta_min

    def integral(t):
        t = as_float(t)
        return t * (beta_min + slope / 2 * t)

    return lambda t: beta_min + slope * as_float(t), integral


def _time(beta_min, beta_max, integral):
    if not traced(beta_min, beta_max) and beta_min == beta_max:
        return integral / beta_min
    # The root of a quadratic, in the form without cancellation, which also holds for an infinite integral.
    return 2 / (beta_min / integral + jnp.sqrt((beta_min / integral) ** 2 + 2 * (beta_max - beta_min) / integral))
