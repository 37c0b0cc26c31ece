"""Conformance of every sampler: a new one is one line in SAMPLERS, and in the list of its kind.

Deterministic samplers are measured against the exact probability flow; stochastic ones by propagating the exact mean
and covariance through the Jacobians of a step in (x, noise), without Monte Carlo. Network evaluations are counted
while the program runs, not while it is traced.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import parameterizations, samplers, schedules, timesteps
from diffusion.parameterizations import Prediction
from diffusion.samplers import Sampler, State
from tests import oracles

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
SCHEDULES = {
    "linear_beta": schedules.linear_beta(),
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "rectified_flow": schedules.rectified_flow(),
    "variance_exploding": schedules.variance_exploding(),
    "edm": schedules.edm(),
}
every_sampler = pytest.mark.parametrize("name", list(SAMPLERS))
every_schedule = pytest.mark.parametrize("schedule_name", list(SCHEDULES))
GAUSSIAN = oracles.tilted_gaussian()
MIXTURE = oracles.three_gaussians()


def _denoiser(data, schedule):
    """The exact denoiser of `data`, as any denoiser: (x_t, t) -> Prediction, with a learned variance for good measure."""

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x0, eps = oracles.mean_x0(data, alpha, sigma, x), oracles.mean_eps(data, alpha, sigma, x)
        return Prediction(x0, eps, jnp.full_like(x, 0.3))

    return denoise


def _level(schedule, t):
    return float(schedule.alpha(t)), float(schedule.sigma(t))


def _start(schedule, seed=0, size=4):
    """A batch from the exact marginal of the Gaussian at t_max, and keys."""
    mean, covariance = oracles.marginal(GAUSSIAN, *_level(schedule, schedule.t_max))
    x = np.random.default_rng(seed).multivariate_normal(mean, covariance, size)
    return jnp.asarray(x, jnp.float32), jax.random.split(jax.random.key(seed), size)


# Order of convergence.


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
        denoise = _denoiser(data, schedule)

        def step(i, state):
            state = sampler.step(state, denoise, schedule, plan, i, jnp.zeros((0, *x.shape)))
            return state._replace(x=jnp.where(exact_start & (i == 0), first, state.x))

        return jax.lax.fori_loop(0, steps, step, sampler.init(x, schedule, plan)).x

    return walk


def _errors(name, schedule_name, data, exact_start):
    """The largest error at the end, by number of steps."""
    schedule, solver = SCHEDULES[schedule_name], SOLVERS[name]
    level = functools.partial(_level, schedule)
    flow = oracles.flow if len(data.weights) == 1 else oracles.flow_by_integration
    walk, errors = _walk(name, schedule_name), []
    longest = _grid(schedule, solver.variable, max(COUNTS))
    x = np.array([[0.9, -0.5], [-1.1, 1.6], [2.2, 0.3]])
    x = x * np.sqrt(level(longest[0])[0] ** 2 + level(longest[0])[1] ** 2)
    end = flow(data, level(longest[0]), level(longest[-1]), x)
    for steps in COUNTS:
        grid = _grid(schedule, solver.variable, steps)
        first = flow(data, level(grid[0]), level(grid[1]), x) if exact_start else x
        padded = np.concatenate([grid, np.full(longest.size - grid.size, grid[-1])])
        arrived = walk(oracles.padded(data, 3), padded, steps, x, first, exact_start)
        errors.append(np.abs(arrived - end).max())
    return np.array(errors)


def _assert_order(errors, order, tolerance=0.2):
    assert (np.diff(errors) < 0).all()
    measured = -np.polyfit(np.log(COUNTS), np.log(errors), 1)[0]
    assert abs(measured - order) <= tolerance, f"order {measured:.2f} measured, {order} published; errors {errors}"


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("schedule_name", ["cosine", "rectified_flow"])
@pytest.mark.parametrize("name", list(SOLVERS))
def test_interior_order_is_the_published_one(name, schedule_name, data, x64):
    errors = _errors(name, schedule_name, data, exact_start=SOLVERS[name].history > 0)
    _assert_order(errors, SOLVERS[name].order)


@pytest.mark.slow
@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("schedule_name", ["variance_exploding", "edm"])
@pytest.mark.parametrize("name", list(SOLVERS))
def test_interior_order_on_the_other_smooth_schedules(name, schedule_name, data, x64):
    errors = _errors(name, schedule_name, data, exact_start=SOLVERS[name].history > 0)
    _assert_order(errors, SOLVERS[name].order)


@pytest.mark.parametrize("name", ["dpmpp_2m"])
def test_order_as_shipped_with_a_first_order_start(name, x64):
    """One step of lower order at the start does not cost a second-order method its order."""
    _assert_order(_errors(name, "cosine", MIXTURE, exact_start=False), SOLVERS[name].order)


@pytest.mark.parametrize("name", list(SOLVERS))
@pytest.mark.parametrize("schedule_name", ["cosine", "rectified_flow"])
def test_whole_way_converges_to_the_data(name, schedule_name, x64):
    """From pure noise at t_max, alpha = 0 there, to t = 0: both singular ends included, at least order 1 overall."""
    schedule, errors = SCHEDULES[schedule_name], []
    x = np.array([[0.9, -0.5], [-1.1, 1.6], [2.2, 0.3]])
    end = oracles.flow(GAUSSIAN, (0.0, 1.0), (1.0, 0.0), x)
    for steps in (32, 128):
        grid = timesteps.uniform(schedule, steps)
        padded = np.concatenate([grid, np.zeros(max(COUNTS) - steps)])
        errors.append(np.abs(_walk(name, schedule_name)(oracles.padded(GAUSSIAN, 3), padded, steps, x, x, False) - end).max())
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_sample_walks_as_its_steps_do(name, x64):
    """`sample` adds nothing to a sampler's own steps."""
    schedule = SCHEDULES["cosine"]
    grid = _grid(schedule, "t", 16)
    x = jnp.asarray([[0.9, -0.5], [-1.1, 1.6], [2.2, 0.3]])
    padded = np.concatenate([grid, np.full(max(COUNTS) - 16, grid[-1])])
    walked = _walk(name, "cosine")(oracles.padded(GAUSSIAN, 3), padded, 16, np.asarray(x), np.asarray(x), False)
    keys = jax.random.split(jax.random.key(0), 3)
    sampled = samplers.sample(
        SAMPLERS[name], _denoiser(GAUSSIAN, schedule), schedule, x, timesteps.plan(grid), keys
    )
    assert sampled.dtype == jnp.float64
    np.testing.assert_allclose(sampled, walked, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["ddim", "euler", "heun"])
def test_a_plan_that_goes_up_inverts(name, x64):
    """Data to noise along the same flow: the exact noise, to the method's accuracy."""
    schedule = SCHEDULES["cosine"]
    grid = _grid(schedule, "t", 128)[::-1]
    x = np.array([[0.9, -0.5], [-1.1, 1.6], [2.2, 0.3]])
    exact = oracles.flow(GAUSSIAN, _level(schedule, grid[0]), _level(schedule, grid[-1]), x)
    arrived = _walk(name, "cosine")(oracles.padded(GAUSSIAN, 3), grid, 128, x, x, False)
    np.testing.assert_allclose(arrived, exact, atol=0.05 if name != "heun" else 1e-3)


# Exact moments of stochastic steps.


def _one_step(sampler, denoise, schedule, t, s):
    """(x `[B, D]`, noise `[draws, B, D]`) -> the sample after one step from t to s."""
    plan = timesteps.Plan(jnp.asarray([t]), jnp.asarray([s]), jnp.zeros(1, bool))

    def step(x, noise):
        return sampler.step(sampler.init(x, schedule, plan), denoise, schedule, plan, 0, noise).x

    return step


@functools.cache
def _moments(name, schedule_name):
    """Compiled propagation of mean and covariance along a padded grid: each step is affine in (x, noise)."""
    sampler, schedule = SAMPLERS[name], SCHEDULES[schedule_name]

    @jax.jit
    def propagate(data, grid, steps, mean, covariance):
        denoise = _denoiser(data, schedule)

        def advance(i, moments):
            mean, covariance = moments
            step = _one_step(sampler, denoise, schedule, grid[i], grid[i + 1])
            flat = lambda x, noise: step(x[None], noise[:, None])[0]
            silence = jnp.zeros((sampler.draws, mean.size))
            from_x, from_noise = jax.jacfwd(flat, argnums=(0, 1))(mean, silence)
            from_noise = from_noise.reshape(mean.size, -1)
            return flat(mean, silence), from_x @ covariance @ from_x.T + from_noise @ from_noise.T

        return jax.lax.fori_loop(0, steps, advance, (mean, covariance))

    return propagate


def _moment_error(name, schedule_name, grid, longest=256):
    schedule = SCHEDULES[schedule_name]
    start = oracles.marginal(GAUSSIAN, *_level(schedule, grid[0]))
    padded = np.concatenate([grid, np.full(longest + 1 - grid.size, grid[-1])])
    mean, covariance = _moments(name, schedule_name)(GAUSSIAN, padded, grid.size - 1, *start)
    exact_mean, exact_covariance = oracles.marginal(GAUSSIAN, *_level(schedule, grid[-1]))
    return max(np.abs(mean - exact_mean).max(), np.abs(covariance - exact_covariance).max())


@pytest.mark.parametrize("schedule_name", ["cosine", "edm"])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_mean_and_covariance_converge_to_the_marginals(name, schedule_name, x64):
    """From the prior to the data, t_max to 0; then, on an interior interval, with weak order 1."""
    schedule = SCHEDULES[schedule_name]
    grid = {
        "cosine": lambda steps: timesteps.uniform(schedule, steps),
        "edm": lambda steps: timesteps.karras(schedule, steps, 0.002, 80.0),
    }[schedule_name]
    errors = [_moment_error(name, schedule_name, np.asarray(grid(steps))) for steps in (32, 64, 128, 256)]
    assert errors[-1] < 0.05
    assert errors[-1] < errors[0] / 4

    counts = (32, 64, 128, 256)
    errors = [_moment_error(name, schedule_name, _grid(schedule, "log-SNR", steps)) for steps in counts]
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order > 0.8, f"weak order {order:.2f}; errors {errors}"


@pytest.mark.parametrize("name", ["ddpm", "ddim(0.5)", "ddim(1)", "ddim"])
@every_schedule
def test_one_point_of_data_gives_exact_marginals_in_any_step(name, schedule_name, x64):
    """With x_0 known, q(x_s | x_t, x_0) of any eta is exact however far the step (Song et al. 2021, lemma 1)."""
    schedule, point = SCHEDULES[schedule_name], jnp.array([[0.7, -0.4]])

    def denoise(x, t):
        return Prediction(jnp.broadcast_to(point, x.shape), (x - schedule.alpha(t) * point) / schedule.sigma(t))

    for t, s in ((1.0, 0.5), (0.8, 0.3003), (0.02, 0.01)):
        step = _one_step(SAMPLERS[name], denoise, schedule, t, s)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = _level(schedule, t), _level(schedule, s)
        draws = SAMPLERS[name].draws
        silence, one = jnp.zeros((draws, 1, 2)), jnp.ones((draws, 1, 2))
        mean = step(alpha_t * point, silence)
        np.testing.assert_allclose(mean, alpha_s * point, rtol=1e-9)
        from_x = (step(alpha_t * point + 1.0, silence) - mean)[0, 0]
        from_noise = (step(alpha_t * point, one) - mean)[0, 0] if draws else 0.0
        np.testing.assert_allclose(from_x**2 * sigma_t**2 + from_noise**2, sigma_s**2, rtol=1e-8)


@pytest.mark.parametrize("schedule_name", ["linear_beta", "cosine"])
def test_large_variance_is_exact_for_standard_normal_data(schedule_name, x64):
    """Of the two extreme choices of Ho et al. 2020, section 3.2, beta is right for x_0 ~ N(0, I)."""
    schedule, data = SCHEDULES[schedule_name], oracles.gaussian([0.0, 0.0], np.eye(2))
    for t, s in ((0.9, 0.5), (0.3003, 0.1)):
        step = _one_step(samplers.ddpm("large"), _denoiser(data, schedule), schedule, t, s)
        from_x = (step(jnp.ones((1, 2)), jnp.zeros((1, 1, 2))))[0, 0]
        from_noise = step(jnp.zeros((1, 2)), jnp.ones((1, 1, 2)))[0, 0]
        np.testing.assert_allclose(from_x**2 + from_noise**2, 1, rtol=1e-10)


@pytest.mark.parametrize("name", ["ddpm", "ddpm(large)", "ddpm(learned)"])
@every_schedule
def test_ddpm_step_is_the_posterior(name, schedule_name, x64):
    """N(a x_t + b x0, c) from the definition of the process; the variance as the three choices say."""
    schedule = SCHEDULES[schedule_name]
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    noise = jnp.asarray(np.random.default_rng(1).standard_normal((1, 3, 2)))
    for t, s in ((0.99, 0.5), (0.6, 0.599), (0.02, 0.01)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = start, end = _level(schedule, t), _level(schedule, s)
        a, b, small = oracles.ancestral(start, end)
        large = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
        variance = {"ddpm": small, "ddpm(large)": large, "ddpm(learned)": large**0.3 * small**0.7}[name]
        x0 = oracles.mean_x0(MIXTURE, alpha_t, sigma_t, x)
        step = _one_step(SAMPLERS[name], _denoiser(MIXTURE, schedule), schedule, t, s)
        np.testing.assert_allclose(step(x, noise), a * x + b * x0 + np.sqrt(variance) * noise[0], rtol=1e-7, atol=1e-9)


@every_schedule
def test_ddim_step_is_equation_12(schedule_name, x64):
    """alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c z; for variance-preserving processes c is Song et al.'s eq. 16."""
    schedule, eta = SCHEDULES[schedule_name], 0.5
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    noise = jnp.asarray(np.random.default_rng(1).standard_normal((1, 3, 2)))
    for t, s in ((0.99, 0.5), (0.02, 0.01)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = start, end = _level(schedule, t), _level(schedule, s)
        c = eta * np.sqrt(oracles.ancestral(start, end)[2])
        if schedule_name in ("linear_beta", "scaled_linear", "cosine"):
            bar_t, bar_s = alpha_t**2, alpha_s**2
            np.testing.assert_allclose(c, eta * np.sqrt((1 - bar_s) / (1 - bar_t)) * np.sqrt(1 - bar_t / bar_s), rtol=1e-6)
        x0, eps = (f(MIXTURE, alpha_t, sigma_t, x) for f in (oracles.mean_x0, oracles.mean_eps))
        denoise = _denoiser(MIXTURE, schedule)
        expected = alpha_s * x0 + np.sqrt(sigma_s**2 - c**2) * eps + c * noise[0]
        np.testing.assert_allclose(_one_step(samplers.ddim(eta), denoise, schedule, t, s)(x, noise), expected, rtol=1e-7)
        plain = alpha_s * x0 + sigma_s * eps
        np.testing.assert_allclose(_one_step(samplers.ddim(), denoise, schedule, t, s)(x, noise[:0]), plain, rtol=1e-9)


@every_schedule
def test_ddim_with_eta_1_is_ddpm(schedule_name, x64):
    schedule = SCHEDULES[schedule_name]
    x, noise = jnp.asarray([[0.3, -1.2]]), jnp.asarray([[[0.7, 0.1]]])
    for t, s in ((1.0, 0.7), (0.6, 0.2), (0.02, 0.0)):
        steps = [_one_step(SAMPLERS[name], _denoiser(MIXTURE, schedule), schedule, t, s) for name in ("ddpm", "ddim(1)")]
        np.testing.assert_allclose(steps[0](x, noise), steps[1](x, noise), rtol=1e-8, atol=1e-10)


def test_dpmpp_2m_step_is_the_published_one(x64):
    """Lu et al. 2022, algorithm 2, written out for two steps with lambda = log(alpha / sigma)."""
    schedule = SCHEDULES["cosine"]
    times = np.array([0.8, 0.55, 0.4])
    x = np.array([[0.9, -0.5]])
    (a0, s0), (a1, s1), (a2, s2) = (_level(schedule, t) for t in times)
    l0, l1, l2 = np.log(a0 / s0), np.log(a1 / s1), np.log(a2 / s2)
    first = oracles.mean_x0(MIXTURE, a0, s0, x)
    x1 = s1 / s0 * x - a1 * np.expm1(-(l1 - l0)) * first
    second = oracles.mean_x0(MIXTURE, a1, s1, x1)
    r = (l1 - l0) / (l2 - l1)
    d = (1 + 1 / (2 * r)) * second - 1 / (2 * r) * first
    x2 = s2 / s1 * x1 - a2 * np.expm1(-(l2 - l1)) * d
    keys = jax.random.split(jax.random.key(0), 1)
    plan = timesteps.plan(times)
    ours = samplers.sample(samplers.dpmpp_2m(), _denoiser(MIXTURE, schedule), schedule, jnp.asarray(x), plan, keys)
    np.testing.assert_allclose(ours, x2, rtol=1e-10)


# A few steps, at both ends of every schedule, in float32.


@every_sampler
@every_schedule
def test_one_two_and_three_steps_are_finite(name, schedule_name):
    """From t_max to 0 in float32; one step is the estimate of x_0 and nothing else, with no noise left in it."""
    schedule = SCHEDULES[schedule_name]
    x, keys = _start(schedule)
    denoise = _denoiser(MIXTURE, schedule)
    with jax.disable_jit():
        for steps in (1, 2, 3):
            plan = timesteps.plan(timesteps.uniform(schedule, steps))
            out = samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
            assert out.dtype == jnp.float32
            assert out.shape == x.shape
            assert np.isfinite(out).all()
            if steps == 1:
                np.testing.assert_allclose(out, denoise(x, schedule.t_max).x0, rtol=1e-4, atol=1e-5)


@every_sampler
@every_schedule
def test_a_step_from_the_smallest_time_and_a_tiny_step_are_finite(name, schedule_name):
    schedule = SCHEDULES[schedule_name]
    smallest = max(schedule.t_min, 1e-4)
    x, keys = _start(schedule)
    with jax.disable_jit():
        plan = timesteps.plan(np.array([smallest * 1.5, smallest, 0.0], np.float32))
        out = samplers.sample(SAMPLERS[name], _denoiser(MIXTURE, schedule), schedule, x, plan, keys)
    assert np.isfinite(out).all()


PARAMETERIZATIONS = {
    "epsilon": parameterizations.epsilon(),
    "x0": parameterizations.x0(),
    "v": parameterizations.v(),
    "score": parameterizations.score(),
    "velocity": parameterizations.velocity(),
    "edm": parameterizations.edm(),
}


@pytest.mark.parametrize("parameterization", list(PARAMETERIZATIONS))
@every_schedule
def test_networks_of_every_parameterization_sample_finitely(parameterization, schedule_name):
    """Whatever a denoiser accepts, every sampler that reads it can start at t_max and end at 0."""
    schedule, p = SCHEDULES[schedule_name], PARAMETERIZATIONS[parameterization]
    network = lambda x, clock, condition: jnp.tanh(x) * jnp.cos(clock)[:, None]
    try:
        denoise = parameterizations.denoiser(network, schedule, p)
    except ValueError:
        pytest.skip(f"{parameterization} is refused on {schedule_name}")
    x, keys = _start(schedule)
    with jax.disable_jit():
        for name in ("ddpm", "ddim", "heun", "dpmpp_2m"):
            plan = timesteps.plan(timesteps.uniform(schedule, 3))
            assert np.isfinite(samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)).all(), name


# What the program does: evaluations, batches, compilation, derivatives, the way.


@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_nfe_counted_while_running_is_the_documented_one(name, steps):
    schedule, calls = SCHEDULES["cosine"], []
    exact = _denoiser(GAUSSIAN, schedule)

    def denoise(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return exact(x, t)

    x, keys = _start(schedule)
    plan = timesteps.plan(timesteps.uniform(schedule, steps))
    with jax.disable_jit():
        samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
        jax.effects_barrier()
    assert len(calls) == SAMPLERS[name].nfe(steps)
    published = {"heun": 2 * steps - 1}.get(name, steps)
    assert len(calls) == published


@functools.cache
def _compiled(name):
    """(x, keys) -> four steps on the cosine schedule, compiled, with its evaluations counted as it runs."""
    schedule, calls = SCHEDULES["cosine"], []
    exact = _denoiser(GAUSSIAN, schedule)

    def denoise(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return exact(x, t)

    plan = timesteps.plan(timesteps.uniform(schedule, 4))
    run = jax.jit(lambda x, keys: samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys, trajectory=True))
    return run, calls, denoise, schedule, plan


@every_sampler
def test_compiled_program_equals_the_eager_one_and_makes_as_many_evaluations(name):
    run, calls, denoise, schedule, plan = _compiled(name)
    x, keys = _start(schedule)
    jax.effects_barrier()
    calls.clear()
    compiled, _ = run(x, keys)
    jax.block_until_ready(compiled)
    jax.effects_barrier()
    assert len(calls) == SAMPLERS[name].nfe(4)
    with jax.disable_jit():
        eager = samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
    np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


@every_sampler
def test_trajectory_has_every_step(name):
    run, _, denoise, schedule, plan = _compiled(name)
    x, keys = _start(schedule)
    out, trajectory = run(x, keys)
    assert trajectory.x.shape == (5, *x.shape)
    assert trajectory.x0.shape == (4, *x.shape)
    np.testing.assert_array_equal(trajectory.x[0], x)
    np.testing.assert_array_equal(trajectory.x[-1], out)
    for i in range(4):
        expected = denoise(trajectory.x[i], plan.t[i]).x0
        np.testing.assert_allclose(trajectory.x0[i], expected, rtol=1e-4, atol=1e-5)


@every_sampler
def test_a_sample_depends_on_its_own_seed_alone(name):
    """Sample i is the same in any company and in any order."""
    run, _, denoise, schedule, plan = _compiled(name)
    x, keys = _start(schedule)
    out, _ = run(x, keys)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(run(x[order], keys[order])[0], out[order], rtol=1e-5, atol=1e-6)
    with jax.disable_jit():
        alone = samplers.sample(SAMPLERS[name], denoise, schedule, x[1:2], plan, keys[1:2])
    np.testing.assert_allclose(alone, out[1:2], rtol=1e-4, atol=1e-5)
    changed, _ = run(x, keys.at[0].set(jax.random.key(99)))
    np.testing.assert_array_equal(changed[1:], out[1:])
    assert (np.asarray(changed[0] != out[0]).all()) == (SAMPLERS[name].draws > 0)


def _recorder(draws):
    """A sampler whose sample is the noise that it was given."""

    def step(state, denoise, schedule, plan, i, noise):
        return State(noise.sum(0), state.x0)

    return Sampler(samplers.ddim().init, step, draws, lambda steps: 0)


def test_noise_is_bitwise_a_function_of_the_key_and_the_step():
    schedule, plan = SCHEDULES["cosine"], timesteps.plan(np.array([1.0, 0.7, 0.3, 0.0]))
    keys, x = jax.random.split(jax.random.key(0), 6), jnp.zeros((6, 3))
    draw = lambda keys, x: samplers.sample(_recorder(1), None, schedule, x, plan, keys, trajectory=True)[1].x[1:]
    noise = draw(keys, x)
    np.testing.assert_array_equal(draw(keys[2:4], x[2:4]), noise[:, 2:4])
    order = np.array([5, 3, 0, 1, 4, 2])
    np.testing.assert_array_equal(draw(keys[order], x), noise[:, order])
    assert len(np.unique(np.asarray(noise))) == noise.size  # no step, sample or element repeats another


def test_noise_is_standard_normal_and_independent_between_steps():
    schedule, plan = SCHEDULES["cosine"], timesteps.plan(np.array([1.0, 0.5, 0.0]))
    keys, x = jax.random.split(jax.random.key(0), 2000), jnp.zeros((2000, 2))
    noise = samplers.sample(_recorder(1), None, schedule, x, plan, keys, trajectory=True)[1].x[1:]
    assert scipy.stats.kstest(np.asarray(noise).ravel(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(np.asarray(noise).transpose(0, 2, 1).reshape(4, -1))
    assert np.abs(correlation - np.eye(4)).max() < 4 / np.sqrt(2000)


@pytest.mark.parametrize("name", ["ddpm", "heun", "dpmpp_2m"])
def test_samplers_vmap(name):
    """A second batch axis by `vmap` is the batch again."""
    schedule = SCHEDULES["cosine"]
    denoise, plan = _denoiser(GAUSSIAN, schedule), timesteps.plan(timesteps.uniform(schedule, 3))
    x, keys = _start(schedule)
    run = lambda x, keys: samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
    mapped = jax.vmap(run)(x.reshape(2, 2, 2), keys.reshape(2, 2))
    np.testing.assert_allclose(mapped.reshape(4, 2), run(x, keys), rtol=1e-4, atol=1e-5)


@every_sampler
def test_gradient_through_sampling(name, x64):
    """On Gaussian data the whole walk is affine in x: its derivative is the difference of two samples."""
    schedule = SCHEDULES["cosine"]
    denoise, plan = _denoiser(GAUSSIAN, schedule), timesteps.plan(timesteps.uniform(schedule, 3))
    keys = jax.random.split(jax.random.key(0), 2)
    x, direction = jnp.asarray([[0.4, -1.0], [0.2, 0.6]]), jnp.asarray([[1.0, 0.5], [-0.3, 2.0]])
    run = lambda x: samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)

    @jax.jit
    def both(x):
        difference = run(x + direction) - run(x)
        _, derivative = jax.jvp(run, (x,), (direction,))
        gradient = jax.grad(lambda x: run(x)[0].sum())(x)
        return difference, derivative, gradient

    difference, derivative, gradient = both(x)
    np.testing.assert_allclose(derivative, difference, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose((gradient * direction).sum(), difference[0].sum(), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(gradient[1], 0)


def test_gradient_through_a_learned_variance_is_finite():
    """The last step adds no noise; its variance of zero must not make the network's gradient NaN."""
    schedule, plan = SCHEDULES["cosine"], timesteps.plan(np.array([1.0, 0.5, 0.0]))
    x, keys = _start(schedule)

    def loss(weight):
        denoise = lambda x, t: Prediction(weight * x, weight * x, jax.nn.sigmoid(weight * x))
        return samplers.sample(samplers.ddpm("learned"), denoise, schedule, x, plan, keys).sum()

    assert np.isfinite(jax.jit(jax.grad(loss))(0.5))


def _count(jaxpr, primitive):
    """How often a primitive stands in a program, inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == primitive
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += _count(inner, primitive)
    return total


@every_sampler
def test_program_holds_a_constant_number_of_networks(name):
    """Whatever the number of steps; the tangent stands for the network."""
    schedule = SCHEDULES["edm"]
    x, keys = _start(schedule)

    def copies(steps):
        plan = timesteps.plan(timesteps.uniform(schedule, steps))
        denoise = lambda x, t: Prediction(jnp.tan(x), x, 0.5 + 0 * x)
        run = lambda x, keys: samplers.sample(SAMPLERS[name], denoise, schedule, x, plan, keys)
        return _count(jax.make_jaxpr(run)(x, keys).jaxpr, "tan")

    assert copies(2) == copies(30)
    assert 1 <= copies(2) <= 2


@pytest.mark.parametrize("shape", [(), (3,), (4, 4, 1), (2, 3, 1, 2)])
@pytest.mark.parametrize("name", ["ddpm", "ddim", "heun", "dpmpp_2m"])
def test_any_rank_and_promotion_of_half_precision(name, shape):
    schedule, keys = SCHEDULES["cosine"], jax.random.split(jax.random.key(0), 2)
    denoise = lambda x, t: Prediction(0.5 * x, x / 2, None)
    with jax.disable_jit():
        plan = timesteps.plan(timesteps.uniform(schedule, 2))
        out = samplers.sample(SAMPLERS[name], denoise, schedule, jnp.ones((2, *shape), jnp.bfloat16), plan, keys)
    assert out.shape == (2, *shape)
    assert out.dtype == jnp.float32


# Plans that renoise, and the hook.


def _still():
    """A sampler that stands still."""
    return Sampler(samplers.ddim().init, lambda state, *_: state, 0, lambda steps: 0)


@pytest.mark.parametrize("schedule_name", ["cosine", "edm"])
def test_renoising_draws_the_forward_transition(schedule_name):
    """q(x_s | x_t) = N(alpha_s / alpha_t x_t, sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2)."""
    schedule, count = SCHEDULES[schedule_name], 4000
    plan = timesteps.plan(np.array([0.5, 0.3, 0.7, 0.0]), np.array([False, True, False]))
    keys, x = jax.random.split(jax.random.key(0), count), jnp.full((count, 1), 0.8)
    _, trajectory = samplers.sample(_still(), None, schedule, x, plan, keys, trajectory=True)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = _level(schedule, 0.3), _level(schedule, 0.7)
    std = np.sqrt(sigma_s**2 - (alpha_s / alpha_t * sigma_t) ** 2)
    np.testing.assert_array_equal(trajectory.x[1], x)
    noise = (np.asarray(trajectory.x[2]) - alpha_s / alpha_t * 0.8) / std
    assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    np.testing.assert_array_equal(trajectory.x[3], trajectory.x[2])


def test_renoising_forgets_the_history():
    """After it a multistep method starts afresh: the rest is what it would be from there alone."""
    schedule, renoise = SCHEDULES["cosine"], np.array([False, False, True, False, False, False])
    grid = np.array([0.9, 0.6, 0.3, 0.7, 0.5, 0.2, 0.0])
    x, keys = _start(schedule)
    denoise = _denoiser(MIXTURE, schedule)
    run = jax.jit(lambda x, plan, keys: samplers.sample(samplers.dpmpp_2m(), denoise, schedule, x, plan, keys, trajectory=True))
    _, whole = run(x, timesteps.plan(grid, renoise), keys)
    _, rest = run(whole.x[3], timesteps.plan(grid[3:]), keys)
    np.testing.assert_allclose(whole.x[4:], rest.x[1:], rtol=1e-5, atol=1e-6)


def test_renoising_costs_no_evaluation():
    schedule, calls = SCHEDULES["cosine"], []

    def denoise(x, t):
        calls.append(1)
        return Prediction(0.5 * x, 0.5 * x)

    x, keys = _start(schedule)
    plan = timesteps.plan(np.array([0.9, 0.4, 0.7, 0.0]), np.array([False, True, False]))
    with jax.disable_jit():
        samplers.sample(samplers.ddim(), denoise, schedule, x, plan, keys)
    assert len(calls) == 2


def test_hook_sees_every_step_and_its_result_goes_on():
    schedule, plan = SCHEDULES["cosine"], timesteps.plan(np.array([1.0, 0.6, 0.2, 0.0]))
    x, keys = _start(schedule)
    hook = lambda x, s, i, keys: x.at[:, 0].set(s).at[:, 1].set(i)
    out, trajectory = samplers.sample(
        samplers.dpmpp_2m(), _denoiser(GAUSSIAN, schedule), schedule, x, plan, keys, trajectory=True, after_step=hook
    )
    np.testing.assert_allclose(trajectory.x[1:, :, 0], np.repeat([[0.6], [0.2], [0.0]], 4, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(trajectory.x[1:, :, 1], np.repeat([[0], [1], [2]], 4, axis=1))
    np.testing.assert_array_equal(out, trajectory.x[-1])


def test_hook_has_keys_of_its_own():
    """Its draws differ between steps and samples, and from those of the steps themselves."""
    schedule, plan = SCHEDULES["cosine"], timesteps.plan(np.array([1.0, 0.6, 0.2, 0.0]))
    x, keys = jnp.zeros((3, 2)), jax.random.split(jax.random.key(0), 3)
    hook = lambda x, s, i, keys: jnp.concatenate([x, jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)], axis=1)[:, 1:3]
    _, way = samplers.sample(_recorder(1), None, schedule, x, plan, keys, trajectory=True, after_step=hook)
    assert len(np.unique(np.asarray(way.x[1:]))) == way.x[1:].size


# Bad input.


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: samplers.ddpm("medium"), "medium"),
        (lambda: samplers.ddim(-0.1), "eta"),
        (lambda: samplers.ddim(1.5), "eta"),
        (lambda: samplers.ddim(float("nan")), "eta"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_do_not_invert(name):
    schedule = SCHEDULES["cosine"]
    x, keys = _start(schedule)
    with pytest.raises(ValueError, match="invert"):
        samplers.sample(
            SAMPLERS[name], _denoiser(GAUSSIAN, schedule), schedule, x, timesteps.plan(np.array([0.1, 0.5])), keys
        )


def test_learned_variance_must_be_learned():
    schedule = SCHEDULES["cosine"]
    x, keys = _start(schedule)
    denoise = lambda x, t: Prediction(x, x)
    with pytest.raises(ValueError, match="learned"):
        samplers.sample(samplers.ddpm("learned"), denoise, schedule, x, timesteps.plan(np.array([1.0, 0.0])), keys)


def test_one_key_a_sample():
    schedule = SCHEDULES["cosine"]
    x, keys = _start(schedule)
    plan = timesteps.plan(np.array([1.0, 0.0]))
    for wrong in (keys[:3], keys[0]):
        with pytest.raises(ValueError, match="key"):
            samplers.sample(samplers.ddim(), _denoiser(GAUSSIAN, schedule), schedule, x, plan, wrong)


def test_prior_draws_each_example_from_its_own_key():
    schedule, keys = SCHEDULES["edm"], jax.random.split(jax.random.key(0), 500)
    x = samplers.prior(schedule, keys, (4, 4, 1))
    assert x.shape == (500, 4, 4, 1)
    np.testing.assert_array_equal(samplers.prior(schedule, keys[7:9], (4, 4, 1)), x[7:9])
    assert scipy.stats.kstest(np.asarray(x).ravel() / 80.0, "norm").pvalue > 1e-3
