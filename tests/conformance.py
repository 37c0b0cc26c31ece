"""The lists that the conformance suites run over: a new member of a kind is one line here.

(Densities, grids, weightings and objectives have their lists in the test files of their kinds, beside the closed forms
that they are compared with; so have the schedules' definitions.)
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import parameterizations, samplers, schedules
from diffusion.parameterizations import Prediction
from tests import oracles

SCHEDULES = {
    "linear_beta": schedules.linear_beta(),
    "cosine": schedules.cosine(),
    "rectified_flow": schedules.rectified_flow(),
    "variance_exploding": schedules.variance_exploding(),
    "edm": schedules.edm(),
}
PARAMETERIZATIONS = {
    "epsilon": parameterizations.epsilon,
    "x0": parameterizations.x0,
    "v": parameterizations.v,
    "score": parameterizations.score,
    "velocity": parameterizations.velocity,
    "edm": parameterizations.edm,
}
SAMPLERS = {
    "ddpm": samplers.ddpm(),
    "ddpm(large)": samplers.ddpm("large"),
    "ddpm(learned)": samplers.ddpm("learned"),
    "ddim": samplers.ddim(),
    "ddim(0.5)": samplers.ddim(0.5),
    "ddim(1)": samplers.ddim(1.0),
    "euler": samplers.euler(),
    "heun": samplers.heun(),
    "dpmpp_2m": samplers.dpmpp_2m(),
}
DETERMINISTIC = [name for name, sampler in SAMPLERS.items() if sampler.draws == 0]
STOCHASTIC = [name for name, sampler in SAMPLERS.items() if sampler.draws > 0]
DATA = {"gaussian": oracles.tilted_gaussian(), "mixture": oracles.three_gaussians()}

every_schedule = pytest.mark.parametrize("schedule_name", list(SCHEDULES))
every_sampler = pytest.mark.parametrize("name", list(SAMPLERS))


def slow_but(fast, cases):
    """Every case (a tuple of arguments), those that are not in `fast` marked slow."""
    return [pytest.param(*case, marks=() if case in fast else pytest.mark.slow) for case in cases]


def level(schedule, t) -> tuple[float, float]:
    """alpha and sigma at t, as the oracles take them."""
    return float(schedule.alpha(t)), float(schedule.sigma(t))


def exact_denoiser(data, schedule):
    """The exact denoiser of `data`, with a learned variance for the samplers that ask for one."""

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x0, eps = oracles.mean_x0(data, alpha, sigma, x), oracles.mean_eps(data, alpha, sigma, x)
        return Prediction(x0, eps, jnp.full_like(x, 0.3))

    return denoise


def start(schedule, seed=0, size=4):
    """A float32 batch from the exact marginal of the Gaussian at t_max, and a key for each."""
    mean, covariance = oracles.marginal(DATA["gaussian"], *level(schedule, schedule.t_max))
    x = np.random.default_rng(seed).multivariate_normal(mean, covariance, size)
    return jnp.asarray(x, jnp.float32), jax.random.split(jax.random.key(seed), size)
