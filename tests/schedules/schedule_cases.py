"""Every schedule beside its published definition: a new one is one line in SCHEDULES, in numpy float64."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from diffusion import schedules
from tests import oracles


class Case(NamedTuple):
    """A schedule beside its published definition, (alpha^2, sigma^2) as float64 functions of t."""

    make: Callable[[], schedules.NoiseSchedule]
    squares: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    smallest: float  # below this time only the value at 0 is defined
    bounds: tuple[float, float]  # alpha(t_max), sigma(t_max)
    alpha_atol: float = 1e-6


def _discrete(betas):
    """log alpha^2 = sum_j<=i log(1 - beta_j), interpolated linearly in t between t = 0, 1/T, .., 1."""
    table = np.concatenate([[0.0], np.log(np.cumprod(1 - betas))])

    def squares(t):
        log_square = np.interp(t, np.arange(len(table)) / len(betas), table)
        return np.exp(log_square), -np.expm1(log_square)

    return squares


def _cosine(t, s=0.008):
    alpha_bar = np.cos((t + s) / (1 + s) * np.pi / 2) ** 2 / np.cos(s / (1 + s) * np.pi / 2) ** 2
    return alpha_bar, 1 - alpha_bar


LINEAR = np.linspace(1e-4, 0.02, 1000)
SCALED_LINEAR = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2


def _end(betas):
    return float(np.prod(1 - betas)) ** 0.5, float(1 - np.prod(1 - betas)) ** 0.5


def sigmoid_squares(t, start=-3.0, end=3.0, tau=1.0):
    """Algorithm 1 of Chen 2023, without its clip; 1 - alpha^2 by the same formula from the other end."""
    s = lambda x: scipy.special.expit(np.asarray(x, np.float64) / tau)
    # S(b) - S(a) = S(-a) - S(-b): the side on which the two are small keeps their digits.
    difference = lambda b, a: np.where(np.asarray(a) > 0, s(-np.asarray(a)) - s(-np.asarray(b)), s(b) - s(a))
    at = t * (end - start) + start
    span = difference(end, start)
    return difference(end, at) / span, difference(at, start) / span


def linear_beta_integral(t):
    return np.asarray(0.1 * t + 0.5 * 19.9 * t**2)


def _vp(t):
    return np.exp(-linear_beta_integral(t)), -np.expm1(-linear_beta_integral(t))


def _sub_vp(t):
    return _vp(t)[0], _vp(t)[1] ** 2


def _of_log_snr(log_snr):
    """Kingma et al. 2021, eq. 3: alpha^2 = sigmoid(log-SNR)."""
    return lambda t: (scipy.special.expit(log_snr(t)), scipy.special.expit(-log_snr(t)))


KNOTS = np.array([0.0, 0.13, 0.5, 0.81, 1.0]), np.array([9.0, 4.0, 1.0, -3.0, -8.0])


def _learned_log_snr(t):
    """That of `oracles.monotone_network`, by hand: |weights|, and the ends where they are needed."""
    t = np.asarray(t, np.float64)
    h = lambda t: (
        0.4 * t + (np.tanh(2 * (2 * t - 1) + 0.5) + 2 * np.tanh(5 * (2 * t - 1) - 1) + 0.7 * np.tanh(2 * t - 1 + 3)) / 3
    )
    return 11 - 15 * (h(t) - h(0.0)) / (h(1.0) - h(0.0))


def _interpolated(squares, first, last):
    """(1 - t) times the log-SNR shifted by the first factor plus t times that shifted by the last."""
    return lambda t: _shifted(squares, first ** (1 - t) * last**t)(t)


def _shifted(squares, factor):
    """Hoogeboom et al. 2023, eq. 4: sigmoid of a log-SNR that is lower by 2 ln(factor)."""

    def shifted(t):
        alpha_squared, sigma_squared = squares(t)
        return (
            alpha_squared / (alpha_squared + factor**2 * sigma_squared),
            factor**2 * sigma_squared / (alpha_squared + factor**2 * sigma_squared),
        )

    return shifted


def _zero_terminal_vp(t):
    """Lin et al. 2024, algorithm 1, with the first time 1e-5; 1 - alpha^2 from the two factors."""
    alpha = lambda t: np.exp(-linear_beta_integral(t) / 2)
    first = alpha(1e-5)
    last = alpha(1.0)
    # Differences of exponentials, so that the definition itself keeps its digits near both ends.
    above_last = last * np.expm1((linear_beta_integral(1.0) - linear_beta_integral(t)) / 2)
    below_first = -first * np.expm1((linear_beta_integral(1e-5) - linear_beta_integral(t)) / 2)
    new = above_last * first / (first - last)
    missing = -np.expm1(-linear_beta_integral(1e-5) / 2) + below_first * first / (first - last)
    return new**2, missing * (1 + new)


SCHEDULES = {
    "linear_beta": Case(schedules.linear_beta, _discrete(LINEAR), 0.0, _end(LINEAR)),
    "scaled_linear": Case(schedules.scaled_linear, _discrete(SCALED_LINEAR), 0.0, _end(SCALED_LINEAR)),
    "from_betas": Case(
        lambda: schedules.from_betas([0.1, 0.3, 0.2, 0.6]),
        _discrete(np.array([0.1, 0.3, 0.2, 0.6])),
        0.0,
        _end(np.array([0.1, 0.3, 0.2, 0.6])),
    ),
    "cosine": Case(schedules.cosine, _cosine, 0.0, (0.0, 1.0)),
    "rectified_flow": Case(schedules.rectified_flow, lambda t: ((1 - t) ** 2, t**2), 0.0, (0.0, 1.0)),
    "rectified_flow(2)": Case(  # Li and He 2025, "Back to Basics": twice the noise for 512 pixels
        lambda: schedules.rectified_flow(2.0), lambda t: ((1 - t) ** 2, (2 * t) ** 2), 0.0, (0.0, 2.0)
    ),
    "rectified_flow(0.5)": Case(
        lambda: schedules.rectified_flow(0.5), lambda t: ((1 - t) ** 2, (t / 2) ** 2), 0.0, (0, 0.5)
    ),
    "variance_exploding": Case(
        schedules.variance_exploding, lambda t: (np.ones_like(t), (0.01 * 5000.0**t) ** 2), 1e-5, (1.0, 50.0)
    ),
    "edm": Case(schedules.edm, lambda t: (np.ones_like(t), (80.0 * t) ** 2), 0.0, (1.0, 80.0)),
    "sigmoid": Case(schedules.sigmoid, sigmoid_squares, 0.0, (0.0, 1.0)),
    "sigmoid(0, 3, 0.3)": Case(
        lambda: schedules.sigmoid(0.0, 3.0, 0.3), lambda t: sigmoid_squares(t, 0.0, 3.0, 0.3), 0.0, (0.0, 1.0)
    ),
    "variance_preserving": Case(
        schedules.variance_preserving, _vp, 0.0, (np.exp(-10.05 / 2), (1 - np.exp(-10.05)) ** 0.5)
    ),
    "sub_vp": Case(schedules.sub_vp, _sub_vp, 0.0, (np.exp(-10.05 / 2), 1 - np.exp(-10.05))),
    "trigonometric": Case(
        schedules.trigonometric, lambda t: (np.cos(np.pi * t / 2) ** 2, np.sin(np.pi * t / 2) ** 2), 0.0, (0.0, 1.0)
    ),
    "from_log_snr": Case(
        lambda: schedules.from_log_snr(KNOTS[1], KNOTS[0]),
        _of_log_snr(lambda t: np.interp(t, *KNOTS)),
        1e-5,
        tuple(scipy.special.expit([-8.0, 8.0]) ** 0.5),
    ),
    "learned": Case(
        lambda: _compiled(schedules.learned(oracles.monotone_network())),
        _of_log_snr(_learned_log_snr),
        1e-5,
        tuple(scipy.special.expit([-4.0, 4.0]) ** 0.5),
    ),
    "from_alpha_sigma(lines at another pace)": Case(  # a kind of its own: neither circles nor straight lines
        lambda: schedules.from_alpha_sigma(lambda t: 1 - t**2, lambda t: t),
        lambda t: ((1 - t**2) ** 2, t**2),
        0.0,
        (0.0, 1.0),
    ),
    "from_alpha_sigma(circles)": Case(
        lambda: schedules.from_alpha_sigma(lambda t: jnp.cos(jnp.pi * t / 2), lambda t: jnp.sin(jnp.pi * t / 2)),
        lambda t: (np.cos(np.pi * t / 2) ** 2, np.sin(np.pi * t / 2) ** 2),
        0.0,
        (0.0, 1.0),
    ),
    "from_alpha_sigma(exploding)": Case(
        lambda: schedules.from_alpha_sigma(jnp.ones_like, lambda t: 0.01 * 5000.0**t),
        lambda t: (np.ones_like(t), (0.01 * 5000.0**t) ** 2),
        1e-5,
        (1.0, 50.0),
    ),
    "shifted(cosine, 4)": Case(lambda: schedules.shifted(schedules.cosine(), 4.0), _shifted(_cosine, 4.0), 0.0, (0, 1)),
    "interpolated(cosine, 2, 8)": Case(  # Hoogeboom et al. 2023, section 3.2: log-SNRs of two shifts, weighted by time
        lambda: schedules.interpolated(schedules.cosine(), 2.0, 8.0), _interpolated(_cosine, 2.0, 8.0), 0.0, (0, 1)
    ),
    "shifted(rectified_flow, 3)": Case(  # SD3's shift of the time, Esser et al. 2024, eq. 23
        lambda: schedules.shifted(schedules.rectified_flow(), 3.0),
        lambda t: ((1 - 3 * t / (1 + 2 * t)) ** 2, (3 * t / (1 + 2 * t)) ** 2),
        0.0,
        (0.0, 1.0),
    ),
    "shifted(variance_exploding, 0.2)": Case(
        lambda: schedules.shifted(schedules.variance_exploding(), 0.2),
        lambda t: (np.ones_like(t), (0.002 * 5000.0**t) ** 2),
        1e-5,
        (1.0, 10.0),
    ),
    "zero_terminal_snr(variance_preserving)": Case(
        lambda: schedules.zero_terminal_snr(schedules.variance_preserving()), _zero_terminal_vp, 1e-5, (0.0, 1.0)
    ),
}
NAMES = list(SCHEDULES)


def _compiled(schedule):
    """Its functions of t under jit: those with a loop would be compiled anew at every eager call."""
    return schedule._replace(**{name: jax.jit(getattr(schedule, name)) for name in schedule._fields[:6]})


# Away from the ends by more than float32 resolves; the ends have tests of their own.
INTERIOR = np.concatenate([np.geomspace(1e-4, 0.1, 40), np.linspace(0.1, 1 - 1e-3, 201)[1:]])


def made():
    """Every schedule, made: {name: schedule}."""
    return {name: case.make() for name, case in SCHEDULES.items()}
