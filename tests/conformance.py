"""The lists that the conformance suites run over: a new schedule, parameterization or sampler is one line here.

The lists of densities, grids, weightings and objectives are in the test files of their kinds, beside the closed forms
with which they are compared. So are the definitions of the schedules.
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
# Every schedule, for slow tests and for tests that do not combine schedules with samplers.
ALL_SCHEDULES = {
    **SCHEDULES,
    "scaled_linear": schedules.scaled_linear(),
    "variance_preserving": schedules.variance_preserving(),
    "sub_vp": schedules.sub_vp(),
    "trigonometric": schedules.trigonometric(),
    "sigmoid": schedules.sigmoid(),
    "shifted(cosine, 4)": schedules.shifted(schedules.cosine(), 4.0),
    "from_log_snr": schedules.from_log_snr(np.linspace(12.0, -10.0, 23)),
    "learned": schedules.learned(oracles.monotone_network()),
    "zero_terminal_snr(scaled_linear)": schedules.zero_terminal_snr(schedules.scaled_linear()),
}
PARAMETERIZATIONS = {
    "epsilon": parameterizations.epsilon,
    "x0": parameterizations.x0,
    "clipped_x0": parameterizations.clipped_x0,
    "v": parameterizations.v,
    "score": parameterizations.score,
    "velocity": parameterizations.velocity,
    "edm": parameterizations.edm,
}


def error_of_the_gaussian(log_snr):
    """The mean squared error of the Gaussian's exact denoiser: the mean of v / (1 + v SNR) over the variances v."""
    variances = jnp.asarray(DATA["gaussian"].variances[0], log_snr.dtype)
    return jnp.mean(variances / (1 + variances * jnp.exp(log_snr)))


SAMPLERS = {
    "ddpm": samplers.ddpm(),
    "ddpm(large)": samplers.ddpm("large"),
    "ddpm(learned)": samplers.ddpm("learned"),
    "ddim": samplers.ddim(),
    "ddim(0.5)": samplers.ddim(0.5),
    "ddim(1)": samplers.ddim(1.0),
    "euler": samplers.euler(),
    "heun": samplers.heun(),
    "midpoint": samplers.midpoint(),
    "rk4": samplers.rk4(),
    "dpm_2": samplers.dpm_2(),
    "dpm_solver_2": samplers.dpm_solver_2(),
    "dpm_solver_3": samplers.dpm_solver_3(),
    "dpmpp_2s": samplers.dpmpp_2s(),
    "dpmpp_2s(grid)": samplers.dpmpp_2s("grid"),
    "dpmpp_2m": samplers.dpmpp_2m(),
    "dpmpp_3m": samplers.dpmpp_3m(),
    "unipc(1)": samplers.unipc(1),
    "unipc(1, bh1)": samplers.unipc(1, "bh1"),
    "unipc": samplers.unipc(),
    "unipc(2, bh1)": samplers.unipc(2, "bh1"),
    "unipc(3)": samplers.unipc(3),
    "deis": samplers.deis(),
    "deis(4)": samplers.deis(4),
    "lms": samplers.lms(),
    "lms(2)": samplers.lms(2),
    "plms": samplers.plms(),
    "pndm": samplers.pndm(),
    "ddpm(analytic)": samplers.ddpm("analytic", error=error_of_the_gaussian),
    "euler_ancestral": samplers.euler_ancestral(),
    "dpm_2_ancestral": samplers.dpm_2_ancestral(),
    "edm": samplers.edm(),
    "edm(churn)": samplers.edm(s_churn=10.0),
    "dpmpp_sde": samplers.dpmpp_sde(),
    "dpmpp_2m_sde": samplers.dpmpp_2m_sde(),
    "dpmpp_2m_sde(heun)": samplers.dpmpp_2m_sde(solver="heun"),
    "dpmpp_3m_sde": samplers.dpmpp_3m_sde(),
    "euler_maruyama": samplers.euler_maruyama(),
    "interpolant_sde": samplers.interpolant_sde(),
    "interpolant_sde(flow_grpo)": samplers.interpolant_sde("flow_grpo", scale=0.49),
    "reverse_diffusion": samplers.reverse_diffusion(),
    "predictor_corrector": samplers.predictor_corrector(),
    "predictor_corrector(sigma)": samplers.predictor_corrector(step_size="sigma"),
}
# {sampler: (published evaluations of one step, n -> those of a plan of n steps that ends at t = 0)}. A sampler that is
# missing has 1 and n evaluations.
_TWO_STAGES = (2, lambda n: 2 * n - 1)
EVALUATIONS = {
    "heun": _TWO_STAGES,
    "midpoint": _TWO_STAGES,
    "rk4": (4, lambda n: 4 * n - 3),
    "dpm_2": _TWO_STAGES,
    "dpm_solver_2": _TWO_STAGES,
    "dpm_solver_3": (3, lambda n: 3 * n - 2),
    "dpmpp_2s": _TWO_STAGES,
    "plms": (2, lambda n: n + 1 if n > 1 else 1),
    "pndm": (4, lambda n: {1: 1, 2: 5, 3: 9}.get(n, n + 9)),
    "dpm_2_ancestral": _TWO_STAGES,
    "edm": _TWO_STAGES,
    "edm(churn)": _TWO_STAGES,
    "dpmpp_sde": _TWO_STAGES,
    "predictor_corrector": _TWO_STAGES,
    "predictor_corrector(sigma)": _TWO_STAGES,
}


def published(name):
    return EVALUATIONS.get(name, (1, lambda n: n))


DETERMINISTIC = [name for name, sampler in SAMPLERS.items() if sampler.draws == 0]
STOCHASTIC = [name for name, sampler in SAMPLERS.items() if sampler.draws > 0]
DATA = {"gaussian": oracles.tilted_gaussian(), "mixture": oracles.three_gaussians()}

# Options of the compiler for small programs, whose compilation takes most of a test's time.
QUICK = {"xla_backend_optimization_level": 0}

every_schedule = pytest.mark.parametrize("schedule_name", list(SCHEDULES))
every_sampler = pytest.mark.parametrize("name", list(SAMPLERS))


def slow_but(fast, cases):
    """The parameters of all cases, which are tuples of arguments; those that are not in `fast` are marked slow."""
    return [pytest.param(*case, marks=() if case in fast else pytest.mark.slow) for case in cases]


def level(schedule, t) -> tuple[float, float]:
    """alpha and sigma at t as numbers, which the oracles take."""
    return float(schedule.alpha(t)), float(schedule.sigma(t))


def any_schedule(which, among=SCHEDULES):
    """A schedule that behaves like the one with index `which` in a list.

    The index may be traced, so that one compilation serves all schedules of the list.
    """

    def choose(field):
        functions = [getattr(schedule, field) for schedule in among.values()]
        return lambda *t: jax.lax.switch(which, functions, *map(jnp.asarray, t))

    fields = ("alpha", "sigma", "log_snr", "inverse_log_snr", "drift", "diffusion", "norm")
    return SCHEDULES["edm"]._replace(**{field: choose(field) for field in fields})


def exact_denoiser(data, schedule):
    """The exact denoiser of `data`; its variance is 0.3, for samplers that read a learned one."""

    def denoise(x, t):
        alpha = schedule.alpha(t)
        sigma = schedule.sigma(t)
        x0 = oracles.mean_x0(data, alpha, sigma, x)
        eps = oracles.mean_eps(data, alpha, sigma, x)
        return Prediction(x0, eps, jnp.full_like(x, 0.3))

    return denoise


def start(schedule, seed=0, size=4):
    """A float32 batch from the Gaussian's exact marginal at t_max, and a key for each example."""
    mean, covariance = oracles.marginal(DATA["gaussian"], *level(schedule, schedule.t_max))
    x = np.random.default_rng(seed).multivariate_normal(mean, covariance, size)
    return jnp.asarray(x, jnp.float32), jax.random.split(jax.random.key(seed), size)


def round_denoiser(schedule):
    """The exact denoiser of N(0.4, 0.5^2 I), which takes few operations."""

    def denoise(x, t):
        alpha = schedule.alpha(t)
        sigma = schedule.sigma(t)
        scaled = (x - alpha * 0.4) / (0.25 * alpha**2 + sigma**2)
        return Prediction(0.4 + 0.25 * alpha * scaled, sigma * scaled, 0.3 + 0 * x)

    return denoise
