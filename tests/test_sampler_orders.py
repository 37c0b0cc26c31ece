"""The measured order of convergence of every deterministic sampler, against the exact probability flow, in float64."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, timesteps
from tests import oracles
from tests.conformance import DATA, DETERMINISTIC, SAMPLERS, SCHEDULES, exact_denoiser, level, slow_but

pytestmark = pytest.mark.usefixtures("x64")


class Solver(NamedTuple):
    """A deterministic sampler's published claim.

    Attributes:
      order: of convergence.
      variable: the increasing function of (alpha, sigma, t) in which it integrates.
      history: steps before the method has the history that its order needs.
    """

    order: int
    variable: str
    history: int = 0


SOLVERS = {
    "ddim": Solver(1, "sigma / alpha"),
    "euler": Solver(1, "t"),
    "heun": Solver(2, "t"),
    "dpmpp_2m": Solver(2, "log-SNR", history=1),
}
# An interior interval: sigma / alpha from 4 to 1/4, on every schedule.
RATIOS = (4.0, 0.25)
COUNTS = (16, 32, 64, 128)


def _grid(schedule, variable, steps):
    """Times uniform in a sampler's variable, by the definition of the variable."""
    time = lambda ratio: np.asarray(schedule.inverse_log_snr(-2 * np.log(ratio)))
    if variable == "t":
        return np.linspace(*time(np.array(RATIOS)), steps + 1)
    if variable == "sigma / alpha":
        return time(np.linspace(*RATIOS, steps + 1))
    return time(np.geomspace(*RATIOS, steps + 1))


@functools.cache
def _walk(name, schedule_name):
    """A compiled walk of any number of steps along a padded grid, through the sampler's own `init` and `step`.

    After the first step the sample is replaced by `first` if `exact_start`: with the true sample and one true
    evaluation before it, a two-step method has an exact starting history. Data, grid and number of steps are
    arguments, so that one compilation serves all.
    """
    sampler, schedule = SAMPLERS[name], SCHEDULES[schedule_name]

    @jax.jit
    def walk(data, grid, steps, x, first, exact_start):
        plan = timesteps.Plan(grid[:-1], grid[1:], jnp.zeros(grid.size - 1, bool))
        denoise = exact_denoiser(data, schedule)

        def step(i, state):
            state = sampler.step(state, denoise, schedule, plan, i, jnp.zeros((0, *x.shape)))
            return state._replace(x=jnp.where(exact_start & (i == 0), first, state.x))

        return jax.lax.fori_loop(0, steps, step, sampler.init(x, schedule, plan)).x

    return walk


POINTS = np.array([[0.9, -0.5], [-1.1, 1.6], [2.2, 0.3]])


@functools.cache
def _exact(kind, ratio):
    """x / alpha at a value of sigma / alpha, from 4 POINTS at the start: the same on every schedule."""
    data = DATA[kind]
    flow = oracles.flow if len(data.weights) == 1 else oracles.flow_by_integration
    return np.asarray(flow(data, (1.0, RATIOS[0]), (1.0, ratio), jnp.asarray(4 * POINTS)))


def _errors(name, schedule_name, kind, exact_start):
    """The largest error of x / alpha at the end, by number of steps."""
    schedule, solver = SCHEDULES[schedule_name], SOLVERS[name]
    walk, errors = _walk(name, schedule_name), []
    for steps in COUNTS:
        grid = _grid(schedule, solver.variable, steps)
        alphas, sigmas = np.asarray(schedule.alpha(grid)), np.asarray(schedule.sigma(grid))
        first = alphas[1] * _exact(kind, round(sigmas[1] / alphas[1], 14)) if exact_start else POINTS
        padded = np.concatenate([grid, np.full(max(COUNTS) - steps, grid[-1])])
        arrived = walk(oracles.padded(DATA[kind], 3), padded, steps, alphas[0] * 4 * POINTS, first, exact_start)
        errors.append(np.abs(arrived / alphas[-1] - _exact(kind, RATIOS[1])).max())
    return np.array(errors)


def _assert_order(errors, order, tolerance=0.2):
    assert (np.diff(errors) < 0).all()
    measured = -np.polyfit(np.log(COUNTS), np.log(errors), 1)[0]
    assert abs(measured - order) <= tolerance, f"order {measured:.2f} measured, {order} published; errors {errors}"


@pytest.mark.parametrize("kind", list(DATA))
@pytest.mark.parametrize(
    "name, schedule_name",
    slow_but(
        [(name, schedule) for name in SOLVERS for schedule in ("cosine", "rectified_flow")],
        [(name, schedule) for name in SOLVERS for schedule in SCHEDULES if schedule != "linear_beta"],  # has kinks
    ),
)
def test_interior_order_is_the_published_one(name, schedule_name, kind):
    errors = _errors(name, schedule_name, kind, exact_start=SOLVERS[name].history > 0)
    _assert_order(errors, SOLVERS[name].order)


@pytest.mark.parametrize("name", ["dpmpp_2m"])
def test_order_as_shipped_with_a_first_order_start(name):
    """One step of lower order at the start does not cost a second-order method its order."""
    _assert_order(_errors(name, "cosine", "mixture", exact_start=False), SOLVERS[name].order)


@pytest.mark.parametrize("name", list(SOLVERS))
@pytest.mark.parametrize("schedule_name", ["cosine", "rectified_flow"])
def test_whole_way_converges_to_the_data(name, schedule_name):
    """From pure noise at t_max, alpha = 0 there, to t = 0: both singular ends included, at least order 1 overall."""
    schedule, errors = SCHEDULES[schedule_name], []
    x = POINTS
    end = oracles.flow(DATA["gaussian"], (0.0, 1.0), (1.0, 0.0), x)
    for steps in (32, 128):
        grid = timesteps.uniform(schedule, steps)
        padded = np.concatenate([grid, np.zeros(max(COUNTS) - steps)])
        arrived = _walk(name, schedule_name)(oracles.padded(DATA["gaussian"], 3), padded, steps, x, x, False)
        errors.append(np.abs(arrived - end).max())
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_sample_walks_as_its_steps_do(name):
    """`sample` adds nothing to a sampler's own steps."""
    schedule = SCHEDULES["cosine"]
    grid = _grid(schedule, "t", 16)
    x = jnp.asarray(POINTS)
    padded = np.concatenate([grid, np.full(max(COUNTS) - 16, grid[-1])])
    walked = _walk(name, "cosine")(oracles.padded(DATA["gaussian"], 3), padded, 16, np.asarray(x), np.asarray(x), False)
    keys = jax.random.split(jax.random.key(0), 3)
    sampled = samplers.sample(
        SAMPLERS[name], exact_denoiser(DATA["gaussian"], schedule), schedule, x, timesteps.plan(grid), keys
    )
    assert sampled.dtype == jnp.float64
    np.testing.assert_allclose(sampled, walked, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["ddim", "euler", "heun"])
def test_a_plan_that_goes_up_inverts(name):
    """Data to noise along the same flow: the exact noise, to the method's accuracy."""
    schedule = SCHEDULES["cosine"]
    grid = _grid(schedule, "t", 128)[::-1]
    x = POINTS
    exact = oracles.flow(DATA["gaussian"], level(schedule, grid[0]), level(schedule, grid[-1]), x)
    arrived = _walk(name, "cosine")(oracles.padded(DATA["gaussian"], 3), grid, 128, x, x, False)
    np.testing.assert_allclose(arrived, exact, atol=0.05 if name != "heun" else 1e-3)
