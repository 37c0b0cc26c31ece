"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps, with data at t = 0 and noise growing with t.

A schedule is a `NoiseSchedule`, a tuple of elementwise functions of t. Everything else in the library reads the
process through them alone. The end at t = 0 is the data, in every schedule: alpha(0) = 1, sigma(0) = 0 and
log_snr(0) = +inf, so that a sampling plan can end at the clean sample whatever `t_min` is.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


class NoiseSchedule(NamedTuple):
    """A Gaussian process x_t = alpha(t) x_0 + sigma(t) eps, and its stochastic differential equation.

    The equation is dx = f(t) x dt + g(t) dw with f = d log alpha / dt and g^2 = d sigma^2 / dt - 2 f sigma^2
    (Song et al. 2021, eq. 5; Kingma et al. 2021, "Variational Diffusion Models").

    Attributes:
      alpha: t -> signal coefficient in [0, 1].
      sigma: t -> noise standard deviation, >= 0.
      log_snr: t -> log(alpha^2 / sigma^2), decreasing from +inf at t = 0.
      inverse_log_snr: log-SNR -> t.
      drift: t -> f(t); infinite where alpha = 0.
      diffusion: t -> g(t) >= 0.
      t_min: smallest time at which a network is trained or evaluated; at t_min = 0 sigma is zero, and only the
        parameterizations that do not divide by it are defined there.
      t_max: largest such time; where alpha(t_max) = 0, epsilon and score prediction are not defined.
      prior: (key, shape) -> one example of the distribution that sampling starts from: N(0, I) where the variance is
        preserved, for data of mean 0 and variance 1, and N(0, sigma(t_max)^2 I) elsewhere.

    Every function takes float t of any shape (integers and half precision are promoted to float32) and returns the
    same shape, float32, or float64 where t is.
    """

    alpha: Callable[[ArrayLike], Array]
    sigma: Callable[[ArrayLike], Array]
    log_snr: Callable[[ArrayLike], Array]
    inverse_log_snr: Callable[[ArrayLike], Array]
    drift: Callable[[ArrayLike], Array]
    diffusion: Callable[[ArrayLike], Array]
    t_min: float
    t_max: float
    prior: Callable[[Array, tuple[int, ...]], Array]


def left_broadcast(t: ArrayLike, x: Array) -> Array:
    """Returns t with trailing axes of length one, so that it multiplies x example by example.

    Args:
      t: array whose shape is a prefix of x's: `[]`, `[B]`, `[B, F]`.
      x: array of any rank, `[B, ...]`.

    Raises:
      ValueError: if t's shape is not a prefix of x's.
    """
    t = jnp.asarray(t)
    if t.shape != x.shape[: t.ndim]:
        raise ValueError(f"the shape of t, {t.shape}, is not a prefix of the shape of x, {x.shape}; "
                         "pass one time for all ([]), one an example ([B]) or one a frame ([B, F])")
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def rectified_flow() -> NoiseSchedule:
    """Straight lines between data and noise: alpha = 1 - t, sigma = t, for t in [0, 1].

    Liu et al. 2023, "Flow Straight and Fast", eq. 1, and Lipman et al. 2023, "Flow Matching for Generative
    Modeling", eq. 20 with sigma_min = 0; both write the time the other way round. alpha(1) = 0.
    """
    return NoiseSchedule(
        alpha=lambda t: 1 - _float(t),
        sigma=_float,
        log_snr=lambda t: 2 * (jnp.log1p(-_float(t)) - jnp.log(_float(t))),
        inverse_log_snr=lambda log_snr: jax.nn.sigmoid(-_float(log_snr) / 2),
        drift=lambda t: -1 / (1 - _float(t)),
        diffusion=lambda t: jnp.sqrt(2 * _float(t) / (1 - _float(t))),
        t_min=0.0,
        t_max=1.0,
        prior=_normal(1.0),
    )


def cosine(s: float = 0.008) -> NoiseSchedule:
    """The cosine schedule in continuous time: alpha = cos(a(t)) / cos(a(0)), a(t) = (pi / 2) (t + s) / (1 + s).

    Variance preserving, sigma^2 = 1 - alpha^2, for t in [0, 1], with alpha(1) = 0 (the paper's clipping of beta at
    0.999 belongs to its discrete process and is not applied). Nichol and Dhariwal 2021, "Improved Denoising Diffusion
    Probabilistic Models", eq. 17.

    Args:
      s: offset that keeps the noise near t = 0 from vanishing too fast, > 0; 0.008 in the paper.

    Raises:
      ValueError: if s is not positive.
    """
    if not s > 0:
        raise ValueError(f"cosine schedule: s = {s} must be positive (0.008 in the paper)")
    rate = math.pi / 2 / (1 + s)
    a_0 = rate * s

    # Each is written by a difference of angles, which stays exact at the end where it vanishes.
    def alpha(t):
        return jnp.sin(rate * (1 - _float(t))) / math.cos(a_0)

    def sigma(t):
        d = rate * _float(t)
        return jnp.sqrt(jnp.sin(d) * jnp.sin(d + 2 * a_0)) / math.cos(a_0)

    def log_snr(t):
        return 2 * (jnp.log(alpha(t)) - jnp.log(sigma(t)))

    def inverse_log_snr(log_snr):
        log_snr = _float(log_snr)
        sin_squared = jax.nn.sigmoid(-log_snr) * math.cos(a_0) ** 2  # sigma^2 cos^2 a_0 = sin^2 a - sin^2 a_0
        cos = jnp.sqrt(jax.nn.sigmoid(log_snr)) * math.cos(a_0)
        a = jnp.arctan2(jnp.sqrt(sin_squared + math.sin(a_0) ** 2), cos)
        # sin(a - a_0) sin(a + a_0) = sin^2 a - sin^2 a_0 gives the small angle without cancellation.
        return jnp.arctan2(sin_squared / jnp.sin(a + a_0), jnp.cos(a - a_0)) / rate

    def drift(t):
        return -rate / jnp.tan(rate * (1 - _float(t)))

    return NoiseSchedule(
        alpha, sigma, log_snr, inverse_log_snr,
        drift=drift,
        diffusion=lambda t: jnp.sqrt(-2 * drift(t)),
        t_min=0.0,
        t_max=1.0,
        prior=_normal(1.0),
    )


def linear_beta(beta_start: float = 1e-4, beta_end: float = 0.02, T: int = 1000) -> NoiseSchedule:
    """The schedule of DDPM: beta_i uniform between two values, alpha(t_i)^2 = prod_{j <= i} (1 - beta_j).

    Ho et al. 2020, "Denoising Diffusion Probabilistic Models", section 4. See `from_betas` for times.

    Args:
      beta_start: first beta, in (0, 1).
      beta_end: last beta, in (0, 1).
      T: number of steps of the process, >= 1.
    """
    return from_betas(np.linspace(beta_start, beta_end, _at_least_one_step(T), dtype=np.float64))


def scaled_linear(beta_start: float = 0.00085, beta_end: float = 0.012, T: int = 1000) -> NoiseSchedule:
    """The schedule of latent diffusion: sqrt(beta_i) uniform between two values.

    Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", as in the authors' code
    ("linear" there). See `from_betas` for times.

    Args:
      beta_start: first beta, in (0, 1).
      beta_end: last beta, in (0, 1).
      T: number of steps of the process, >= 1.
    """
    if not (beta_start > 0 and beta_end > 0):
        raise ValueError(f"scaled_linear: beta_start = {beta_start} and beta_end = {beta_end} must be in (0, 1)")
    roots = np.linspace(np.sqrt(beta_start), np.sqrt(beta_end), _at_least_one_step(T), dtype=np.float64)
    return from_betas(roots**2)


def from_betas(betas: np.ndarray) -> NoiseSchedule:
    """A discrete variance-preserving process with T steps, at the times t = (i + 1) / T for i = 0 .. T - 1.

    alpha(t_i)^2 = prod_{j <= i} (1 - beta_j), tabulated in float64 and looked up by integer index at the grid's times;
    between them, and down to alpha(0) = 1, log alpha is interpolated linearly. Ho et al. 2020, eq. 4.

    Args:
      betas: `[T]` variances of the steps, each in (0, 1).

    Raises:
      ValueError: if betas is not a vector of numbers in (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or betas.size == 0 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError(f"betas must be a vector of numbers in (0, 1); got shape {betas.shape}, values {betas}")
    T = betas.size
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
        return values[i] + (u - i) * (values[jnp.minimum(i + 1, T)] - values[i])

    # The look-up on the grid is flat to the eye of a derivative; the process is not.
    log_alpha.defjvp(lambda t, t_dot: (log_alpha(*t), slope(*t) * t_dot[0]))

    def alpha(t):
        return jnp.exp(log_alpha(_float(t)))

    def sigma(t):
        return jnp.sqrt(0 - jnp.expm1(2 * log_alpha(_float(t))))

    def log_snr(t):
        t = _float(t)
        return 2 * log_alpha(t) - jnp.log(0 - jnp.expm1(2 * log_alpha(t)))

    def inverse_log_snr(log_snr):
        target = -jax.nn.softplus(-_float(log_snr)) / 2  # log alpha
        values = jnp.asarray(table, target.dtype)
        i = jnp.clip(jnp.searchsorted(-values, -target, side="right") - 1, 0, T - 1)
        fraction = (target - values[i]) / (values[i + 1] - values[i])
        return jnp.clip((i + fraction) / T, 0, 1)

    return NoiseSchedule(
        alpha, sigma, log_snr, inverse_log_snr,
        drift=lambda t: slope(_float(t)),
        diffusion=lambda t: jnp.sqrt(-2 * slope(_float(t))),
        t_min=1 / T,
        t_max=1.0,
        prior=_normal(1.0),
    )


def variance_exploding(sigma_min: float = 0.01, sigma_max: float = 50.0) -> NoiseSchedule:
    """Noise in geometric progression: alpha = 1, sigma(t) = sigma_min (sigma_max / sigma_min)^t for t in (0, 1].

    sigma jumps from 0 at t = 0, the data, to sigma_min just after it (the paper's remark in appendix C), so t_min is
    the paper's 1e-5. Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations",
    appendix C; its images are in [0, 1], with sigma_max near the largest distance between two of them.

    Args:
      sigma_min: smallest noise, > 0.
      sigma_max: largest noise, > sigma_min.

    Raises:
      ValueError: if 0 < sigma_min < sigma_max does not hold.
    """
    _check_noise_range("variance_exploding", sigma_min, sigma_max)
    log_ratio = math.log(sigma_max / sigma_min)

    def log_sigma(t):
        t = _float(t)
        return jnp.where(t > 0, math.log(sigma_min) + log_ratio * t, -jnp.inf)

    def inverse_log_snr(log_snr):
        log_snr = _float(log_snr)
        t = (-log_snr / 2 - math.log(sigma_min)) / log_ratio
        return jnp.where(jnp.isposinf(log_snr), 0, t)

    def sigma(t):
        return jnp.exp(log_sigma(t))

    return NoiseSchedule(
        alpha=lambda t: jnp.ones_like(_float(t)),
        sigma=sigma,
        log_snr=lambda t: -2 * log_sigma(t),
        inverse_log_snr=inverse_log_snr,
        drift=lambda t: jnp.zeros_like(_float(t)),
        diffusion=lambda t: sigma(t) * math.sqrt(2 * log_ratio),
        t_min=1e-5,
        t_max=1.0,
        prior=_normal(sigma_max),
    )


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> NoiseSchedule:
    """EDM's schedule with its time scaled to [0, 1]: alpha = 1, sigma = t sigma_max.

    Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", table 1; networks are
    trained and evaluated for sigma in [sigma_min, sigma_max], that is t in [sigma_min / sigma_max, 1].

    Args:
      sigma_min: smallest noise a network sees, > 0, in units of the data.
      sigma_max: largest noise, > sigma_min.

    Raises:
      ValueError: if 0 < sigma_min < sigma_max does not hold.
    """
    _check_noise_range("edm", sigma_min, sigma_max)
    return NoiseSchedule(
        alpha=lambda t: jnp.ones_like(_float(t)),
        sigma=lambda t: sigma_max * _float(t),
        log_snr=lambda t: -2 * (jnp.log(_float(t)) + math.log(sigma_max)),
        inverse_log_snr=lambda log_snr: jnp.exp(-_float(log_snr) / 2) / sigma_max,
        drift=lambda t: jnp.zeros_like(_float(t)),
        diffusion=lambda t: sigma_max * jnp.sqrt(2 * _float(t)),
        t_min=sigma_min / sigma_max,
        t_max=1.0,
        prior=_normal(sigma_max),
    )


def _float(t: ArrayLike) -> Array:
    t = jnp.asarray(t)
    return t.astype(jnp.promote_types(t.dtype, jnp.float32))


def _normal(scale: float) -> Callable[[Array, tuple[int, ...]], Array]:
    return lambda key, shape: scale * jax.random.normal(key, shape, jnp.float32)


def _at_least_one_step(T: int) -> int:
    if T < 1:
        raise ValueError(f"T = {T}: a discrete process has at least one step")
    return T


def _check_noise_range(name: str, sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"{name} needs 0 < sigma_min < sigma_max < inf; got {sigma_min} and {sigma_max}")
