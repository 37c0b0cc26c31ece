"""Inversion: DDIM's, and the samplers whose round trip is exact whatever the network and the step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, timesteps
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import DATA, SCHEDULES, exact_denoiser, level, slow_but

POINTS = np.array([[0.9, -0.5], [-1.1, 1.6], [2.2, 0.3]])
KEYS = jax.random.split(jax.random.key(0), 3)
UP = {"cosine": np.linspace(0.0, 0.95, 7), "edm": np.array([0.0, 0.001, 0.004, 0.01, 0.03, 0.1, 0.4])}


def _crooked(schedule):
    """A network that is nobody's optimum, for what must hold whatever it says; nowhere divided by alpha or sigma."""

    def denoise(x, t):
        alpha = schedule.alpha(t)
        sigma = schedule.sigma(t)
        norm = alpha**2 + sigma**2
        v = jnp.sin(2 * x) + jnp.cos(x[:, ::-1] + 5 * t)
        return Prediction((alpha * x - sigma * v) / norm, (sigma * x + alpha * v) / norm)

    return denoise


# DDIM's inversion.


def test_ddim_inversion_is_the_published_recursion(x64):
    """Null-text inversion's `next_step`: the noise at x_t and the time of arrival, x0 from it, and x0 noised again."""
    schedule = SCHEDULES["cosine"]
    grid = UP["cosine"]
    denoise = _crooked(schedule)

    @jax.jit
    def both(x):
        out = samplers.sample(samplers.ddim_inversion(), denoise, schedule, x, timesteps.plan(grid), KEYS)
        for t, s in itertools.pairwise(grid):
            alpha_t = schedule.alpha(t)
            sigma_t = schedule.sigma(t)
            eps = denoise(x, s).eps
            x = schedule.alpha(s) * (x - sigma_t * eps) / alpha_t + schedule.sigma(s) * eps
        return out, x

    np.testing.assert_allclose(*both(jnp.asarray(POINTS)), rtol=1e-9, atol=1e-9)


def test_ddim_inversion_clips_the_estimate_of_the_data(x64):
    """alpha = 1 - t, sigma = t and a known noise: one step from 0.2 to 0.5 of estimates within the bound and beyond."""
    schedule = SCHEDULES["rectified_flow"]
    eps = np.array([[0.5, -0.5], [0.1, 0.2], [0.3, -0.4]])
    denoise = lambda x, t: Prediction(x, jnp.asarray(eps))
    x0 = (POINTS - 0.2 * eps) / 0.8
    assert (np.abs(x0) > 1).any() and (np.abs(x0) < 1).any()
    for sampler in (samplers.ddim_inversion(clip=1.0), samplers.ddim_inversion(iterations=3, clip=1.0)):
        with jax.disable_jit():
            out = samplers.sample(sampler, denoise, schedule, jnp.asarray(POINTS), timesteps.plan([0.2, 0.5]), KEYS)
        np.testing.assert_allclose(out, 0.5 * np.clip(x0, -1, 1) + 0.5 * eps, rtol=1e-12)


def _order(solve, ratios, counts):
    """The order of convergence to the exact flow between two values of sigma / alpha, on a grid uniform in it.

    `solve` is (denoise, schedule, x, exact second sample, grid) -> x at the end.
    """
    schedule = SCHEDULES["edm"]
    data = DATA["gaussian"]
    denoise = exact_denoiser(data, schedule)

    @jax.jit
    def errors(x):
        exact = lambda ratio: oracles.flow(data, (1.0, ratios[0]), (1.0, ratio), x)
        found = []
        for steps in counts:
            grid = np.linspace(*ratios, steps + 1) / 80
            end = solve(denoise, schedule, x, exact(80 * grid[1]), grid)
            found.append(jnp.abs(end - exact(ratios[1])).max())
        return jnp.array(found)

    return -np.polyfit(np.log(counts), np.log(errors(ratios[0] * jnp.asarray(POINTS))), 1)[0]


def test_ddim_inversion_has_order_1(x64):
    def solve(denoise, schedule, x, second, grid):
        return samplers.sample(samplers.ddim_inversion(), denoise, schedule, x, timesteps.plan(grid), KEYS)

    assert abs(_order(solve, (0.25, 4.0), (32, 128)) - 1) < 0.2


@pytest.mark.extended
@pytest.mark.parametrize("schedule_name", slow_but([("cosine",)], [(name,) for name in UP]))
def test_more_iterations_invert_ddim_exactly(schedule_name, x64):
    """Their fixed point is the sample from which ddim's step arrives where we are: the error falls geometrically."""
    schedule = SCHEDULES[schedule_name]
    data = DATA["mixture"]
    grid = np.linspace(0.3, 0.8, 12) if schedule_name == "cosine" else np.geomspace(0.002, 0.02, 12)
    denoise = exact_denoiser(data, schedule)
    x = jnp.asarray(POINTS)

    @jax.jit
    def lost(x):
        back = []
        for iterations in (1, 4, 16):
            sampler = samplers.ddim_inversion(iterations)
            noise = samplers.sample(sampler, denoise, schedule, x, timesteps.plan(grid), KEYS)
            again = samplers.sample(samplers.ddim(), denoise, schedule, noise, timesteps.plan(grid[::-1]), KEYS)
            back.append(jnp.abs(again - x).max())
        return back

    once, four, sixteen = lost(x)
    assert 1e-3 < once < 1
    assert four < once / 20
    assert sixteen < 1e-8


@pytest.mark.parametrize("iterations", [1, 3])
def test_ddim_inversion_counts_its_evaluations(iterations):
    schedule = SCHEDULES["rectified_flow"]
    calls = []

    def denoise(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return Prediction(0.5 * x, 0.5 * x)

    sampler = samplers.ddim_inversion(iterations)
    plan = timesteps.plan(np.array([0.0, 0.2, 0.5]))
    run = jax.jit(lambda x: samplers.sample(sampler, denoise, schedule, x, plan, KEYS))
    out = jax.block_until_ready(run(jnp.asarray(POINTS, jnp.float32)))
    jax.effects_barrier()
    assert len(calls) == sampler.nfe(2) == 2 * iterations
    assert out.dtype == jnp.float32 and np.isfinite(out).all()


@pytest.mark.parametrize(
    "grid, words", [([0.5, 0.1], "needs a plan with increasing times"), ([0.5, 1.0], "alpha, which is 0 at t = 1")]
)
def test_ddim_inversion_refuses_plans_that_it_cannot_follow(grid, words):
    schedule = SCHEDULES["rectified_flow"]
    with pytest.raises(ValueError, match=words):
        samplers.sample(
            samplers.ddim_inversion(), _crooked(schedule), schedule, jnp.asarray(POINTS), timesteps.plan(grid), KEYS
        )
    with pytest.raises(ValueError, match="iterations = 0"):
        samplers.ddim_inversion(0)


# Exact inversion.


def _edict(schedule, x, mix=0.93):
    """The noise pair of x, and the pair that it gives back."""
    grid = UP["edm" if schedule is SCHEDULES["edm"] else "cosine"]
    up = samplers.edict(_crooked(schedule), schedule, (x, x), timesteps.plan(grid), mix)
    return up, samplers.edict(_crooked(schedule), schedule, up, timesteps.plan(grid[::-1]), mix), (x, x)


def _bdia(schedule, x, gamma=1.0):
    grid = UP["edm" if schedule is SCHEDULES["edm"] else "cosine"]
    second = samplers.sample(samplers.ddim(), _crooked(schedule), schedule, x, timesteps.plan(grid[:2]), KEYS)
    up = samplers.bdia(_crooked(schedule), schedule, (x, second), grid, gamma)
    return up, samplers.bdia(_crooked(schedule), schedule, up[::-1], grid[::-1], gamma)[::-1], (x, second)


TRIPS = {
    "edict": _edict,
    "edict(0.8)": lambda schedule, x: _edict(schedule, x, 0.8),
    "bdia": _bdia,
    "bdia(0.7)": lambda schedule, x: _bdia(schedule, x, 0.7),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", list(TRIPS))
@pytest.mark.parametrize(
    "schedule_name, dtype, tolerance", [("cosine", jnp.float64, 1e-11), ("edm", jnp.float32, 1e-3)]
)
def test_round_trip_is_exact_to_rounding(name, schedule_name, dtype, tolerance, x64):
    """Six coarse steps with a network that is nobody's optimum, on which DDIM's own round trip is far off."""
    schedule = SCHEDULES[schedule_name]

    @jax.jit
    def both(x):
        grid = UP[schedule_name]
        denoise = _crooked(schedule)
        noise = samplers.sample(samplers.ddim_inversion(), denoise, schedule, x, timesteps.plan(grid), KEYS)
        plain = samplers.sample(samplers.ddim(), denoise, schedule, noise, timesteps.plan(grid[::-1]), KEYS)
        return TRIPS[name](schedule, x), plain

    (up, down, begun), plain = both(jnp.asarray(POINTS, dtype))
    assert down[0].dtype == dtype
    scale = max(1, *(float(np.abs(a).max()) for a in up))
    for back, first in zip(down, begun):
        np.testing.assert_allclose(back, first, atol=tolerance * scale)
    assert np.abs(plain - POINTS).max() > 0.05


def test_edict_has_order_1_and_bdia_order_2(x64):
    """On the way from noise to data: the mean of edict's two chains, and bdia with an exact second sample."""

    def edict(denoise, schedule, x, second, grid):
        return sum(samplers.edict(denoise, schedule, (x, x), timesteps.plan(grid))) / 2

    def bdia(denoise, schedule, x, second, grid):
        return samplers.bdia(denoise, schedule, (x, second), grid)[1]

    assert abs(_order(edict, (4.0, 0.25), (128, 512)) - 1) < 0.2
    assert abs(_order(bdia, (4.0, 0.25), (32, 128)) - 2) < 0.2


def test_edict_is_the_authors_loop(x64):
    """Wallace et al. 2023, `coupled_stablediffusion` of their code: a step each, turn and turn about, then mixed."""
    schedule = SCHEDULES["cosine"]
    p = 0.8
    denoise = _crooked(schedule)
    grid = np.array([0.9, 0.6, 0.35, 0.0])

    def loop(*pair):
        pair = list(pair)
        for i, (t, s) in enumerate(itertools.pairwise(grid)):
            for mine in ((0, 1), (1, 0))[i % 2]:
                eps = denoise(pair[1 - mine], t).eps
                quotient = schedule.alpha(t) / schedule.alpha(s)
                pair[mine] = (pair[mine] - schedule.sigma(t) * eps) / quotient + schedule.sigma(s) * eps
            pair[0] = p * pair[0] + (1 - p) * pair[1]
            pair[1] = (1 - p) * pair[0] + p * pair[1]
        return pair

    edict = lambda *pair: samplers.edict(denoise, schedule, pair, timesteps.plan(grid), p)
    x = jnp.asarray(POINTS)
    np.testing.assert_allclose(jax.jit(edict)(x, x[:, ::-1]), jax.jit(loop)(x, x[:, ::-1]), rtol=1e-9, atol=1e-9)


def test_bdia_is_the_papers_recursion(x64):
    """Zhang et al. 2023: z_{i-1} = gamma z_{i+1} - gamma (z_i / a - b / a eps) + (a' z_i + b' eps), a and b DDIM's."""
    schedule = SCHEDULES["cosine"]
    gamma = 0.6
    denoise = _crooked(schedule)
    x = jnp.asarray(POINTS)
    grid = np.array([0.9, 0.5, 0.3])
    second = x[:, ::-1]
    eps = denoise(second, 0.5).eps
    (alpha_2, sigma_2), (alpha_1, sigma_1), (alpha_0, sigma_0) = (level(schedule, t) for t in grid)
    a_up = alpha_1 / alpha_2
    a_down = alpha_0 / alpha_1
    b_up = sigma_1 - sigma_2 * a_up
    b_down = sigma_0 - sigma_1 * a_down
    expected = gamma * x - gamma * (second / a_up - b_up / a_up * eps) + (a_down * second + b_down * eps)
    before, out = samplers.bdia(denoise, schedule, (x, second), grid, gamma)
    np.testing.assert_array_equal(before, second)
    np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-9)


def test_bdia_passes_the_ends_where_alpha_or_sigma_vanish():
    schedule = SCHEDULES["rectified_flow"]
    grid = np.linspace(1.0, 0.0, 5)
    x = jnp.asarray(POINTS, jnp.float32)
    second = samplers.sample(samplers.ddim(), _crooked(schedule), schedule, x, timesteps.plan(grid[:2]), KEYS)
    assert np.isfinite(samplers.bdia(_crooked(schedule), schedule, (x, second), grid)).all()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda schedule, x: samplers.edict(None, schedule, (x, x), timesteps.plan([0.5, 0.0]), 0.0), "mix = 0"),
        (lambda schedule, x: samplers.edict(None, schedule, (x, x), timesteps.plan([1.0, 0.0])), "alpha, which is 0"),
        (
            lambda schedule, x: samplers.edict(
                None, schedule, (x, x), timesteps.plan([0.5, 0.2, 0.4, 0.0], [False, True, False])
            ),
            "changes direction",
        ),
        (lambda schedule, x: samplers.bdia(None, schedule, (x, x), [0.5, 0.2, 0.0], 1.5), "gamma = 1.5"),
        (lambda schedule, x: samplers.bdia(None, schedule, (x, x), [0.5, 0.2, 0.3]), "all decreasing"),
        (lambda schedule, x: samplers.bdia(None, schedule, (x, x), [0.5, 0.2]), "at least three"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call(SCHEDULES["rectified_flow"], jnp.asarray(POINTS))
