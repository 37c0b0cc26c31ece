"""Discrete variance-preserving processes: DDPM's, latent diffusion's, and any list of betas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.parameters import traced
from diffusion.schedules.bisection import in_unit
from diffusion.schedules.noise_schedule import NoiseSchedule, as_float, normal

MOST_STEPS = 10**6  # at twice as many, float32 no longer tells the times on the grid from those between them


def linear_beta(beta_start: float = 1e-4, beta_end: float = 0.02, T: int = 1000) -> NoiseSchedule:
    """The schedule of DDPM: beta_i uniform between two values. See `from_betas` for times.

    Facts:
        alpha: sqrt(prod_{j <= i} (1 - beta_j)), beta_i uniform in [beta_start, beta_end]
        sigma: sqrt(1 - alpha^2)
        end: alpha = 0.00635, sigma = 0.99998 with the paper's betas
        paper: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", section 4

    Args:
        beta_start: first beta, in (0, 1).
        beta_end: last beta, in (0, 1).
        T: number of steps of the process, 1 to 10^6.
    """
    _check_known(beta_start, beta_end)
    return from_betas(np.linspace(beta_start, beta_end, _number_of_steps(T), dtype=np.float64))


def scaled_linear(beta_start: float = 0.00085, beta_end: float = 0.012, T: int = 1000) -> NoiseSchedule:
    """The schedule of latent diffusion ("linear" in its code): sqrt(beta_i) uniform. See `from_betas` for times.

    Facts:
        alpha: sqrt(prod_{j <= i} (1 - beta_j)), sqrt(beta_i) uniform in [sqrt(beta_start), sqrt(beta_end)]
        sigma: sqrt(1 - alpha^2)
        end: alpha = 0.0683, sigma = 0.99767 with the authors' betas
        paper: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", authors' code

    Args:
        beta_start: first beta, in (0, 1).
        beta_end: last beta, in (0, 1).
        T: number of steps of the process, 1 to 10^6.

    Raises:
        ValueError: if a beta is not in (0, 1), or T is out of range.
    """
    _check_known(beta_start, beta_end)
    if not (beta_start > 0 and beta_end > 0):
        raise ValueError(f"scaled_linear: beta_start = {beta_start} and beta_end = {beta_end} must be in (0, 1)")
    roots = np.linspace(np.sqrt(beta_start), np.sqrt(beta_end), _number_of_steps(T), dtype=np.float64)
    return from_betas(roots**2)


def from_betas(betas: np.ndarray) -> NoiseSchedule:
    """A discrete variance-preserving process with T steps, at the times t = (i + 1) / T for i = 0 .. T - 1.

        alpha(t_i)^2 = prod_{j <= i} (1 - beta_j)

    These values are computed in float64 and looked up by index at the times t_i. Between these times, and down to
    alpha(0) = 1, log alpha is linear in t.

    Facts:
        alpha: sqrt(prod_{j <= i} (1 - beta_j)) at t = (i + 1) / T
        sigma: sqrt(1 - alpha^2)
        end: alpha and sigma of the last step
        paper: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", eq. 4

    Args:
        betas: `[T]` variances of the steps, each in (0, 1), T up to 10^6.

    Raises:
        TypeError: if betas is traced; the tables are computed when the process is built.
        ValueError: if betas is not a vector of numbers in (0, 1), or has more than 10^6 numbers.
    """
    _check_known(betas)
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or betas.size == 0 or not np.all((betas > 0) & (betas < 1)):
        outside = betas[~((betas > 0) & (betas < 1))]
        raise ValueError(
            f"betas must be a vector of numbers in (0, 1); got shape {betas.shape}"
            + (f", with {outside[0]:g}" if outside.size else "")
        )
    T = _number_of_steps(betas.size)
    table = np.concatenate([[0.0], np.cumsum(np.log1p(-betas)) / 2])  # log alpha at t = 0, 1/T, .., 1
    slopes = np.diff(table) * T

    def position(t):
        u = t * T
        nearest = jnp.round(u)
        on_grid = jnp.abs(u - nearest) <= 2 * T * jnp.finfo(u.dtype).eps
        return jnp.where(on_grid, nearest, u)

    def slope(t):
        # A grid point belongs to the step that leads to it, as beta_i does to x_i.
        i = jnp.clip(jnp.ceil(position(t)).astype(jnp.int32) - 1, 0, T - 1)
        return jnp.asarray(slopes, t.dtype)[i]

    @jax.custom_jvp
    def log_alpha(t):
        u = position(t)
        i = jnp.clip(jnp.floor(u).astype(jnp.int32), 0, T)
        values = jnp.asarray(table, t.dtype)
        return values[i] + (u - i.astype(u.dtype)) * (values[jnp.minimum(i + 1, T)] - values[i])

    # The derivative of the look-up is zero on the grid; that of the process is not.
    log_alpha.defjvp(lambda t, t_dot: (log_alpha(*t), slope(*t) * t_dot[0]))

    def alpha(t):
        return jnp.exp(log_alpha(as_float(t)))

    def sigma(t):
        return jnp.sqrt(0 - jnp.expm1(2 * log_alpha(as_float(t))))

    def log_snr(t):
        t = as_float(t)
        return 2 * log_alpha(t) - jnp.log(0 - jnp.expm1(2 * log_alpha(t)))

    @jax.custom_jvp
    def time(target):
        values = jnp.asarray(table, target.dtype)
        i = jnp.clip(jnp.searchsorted(-values, -target, side="right") - 1, 0, T - 1)
        # By the slope of float64: the difference of two rounded values has lost digits.
        fraction = T * (target - values[i]) / jnp.asarray(slopes, target.dtype)[i]
        return (i.astype(target.dtype) + fraction) / T

    # On the grid, rounding decides which of two steps i is; the derivative is that of `log_alpha`.
    time.defjvp(lambda target, target_dot: (time(*target), target_dot[0] / slope(time(*target))))

    def inverse_log_snr(log_snr):
        return in_unit(time(-jax.nn.softplus(-as_float(log_snr)) / 2))  # of log alpha

    return NoiseSchedule(
        alpha,
        sigma,
        log_snr,
        inverse_log_snr,
        drift=lambda t: slope(as_float(t)),
        diffusion=lambda t: jnp.sqrt(-2 * slope(as_float(t))),
        t_min=1 / T,
        t_max=1.0,
        prior=normal(1.0),
        norm=jnp.hypot,
    )


def _check_known(*betas: Any) -> None:
    if traced(*betas):
        raise TypeError(
            "the tables of a discrete process are computed in float64 when it is built, so its betas cannot be traced "
            "by jit, grad or vmap. Valid: numbers; of processes in continuous time, such as variance_preserving and "
            "from_log_snr, the parameters may be traced"
        )


def _number_of_steps(T: int) -> int:
    if not 1 <= T <= MOST_STEPS:
        raise ValueError(f"T = {T}: a discrete process has 1 to {MOST_STEPS} steps")
    return T
