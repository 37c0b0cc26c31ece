"""Every step of the stochastic samplers, by exact moments: mean and covariance, not Monte Carlo, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from diffusion import samplers, schedules, timesteps
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import (
    DATA,
    QUICK,
    SAMPLERS,
    SCHEDULES,
    STOCHASTIC,
    any_schedule,
    every_schedule,
    exact_denoiser,
    level,
    slow_but,
)

pytestmark = pytest.mark.usefixtures("x64")


def _one_step(sampler, denoise, schedule, t, s):
    """(x `[B, D]`, noise `[draws, B, D]`) -> the sample after one step from t to s."""
    plan = timesteps.Plan(jnp.asarray([t]), jnp.asarray([s]), jnp.zeros(1, bool))

    def step(x, noise):
        with jax.disable_jit():
            return sampler.step(sampler.init(x, schedule, plan), denoise, schedule, plan, 0, noise).x

    return step


def _matrix(step, mean, draws):
    """What an affine step makes of `mean` `[2]`, and its matrix, of the sample and the noises: from raised coordinates.

    Always nine rows, so that uncompiled steps are made of operations of one shape.
    """
    raised = jnp.eye(9, 8, k=-1)
    outputs = step(mean + raised[:, :2], jnp.moveaxis(raised[:, 2 : 2 + 2 * draws].reshape(9, draws, 2), 1, 0))
    return np.asarray(outputs[0]), np.asarray(outputs[1 : 3 + 2 * draws] - outputs[0]).T


def _one_step_moments(sampler, denoise, schedule, t, s, mean, covariance):
    """The exact mean and covariance after one step from t to s."""
    mean, matrix = _matrix(_one_step(sampler, denoise, schedule, t, s), mean, sampler.draws)
    spread = scipy.linalg.block_diag(covariance, np.eye(2 * sampler.draws))
    return mean, matrix @ spread @ matrix.T


@functools.cache
def _moments(name):
    """Compiled propagation of mean and covariance along a grid, which may be padded, of any schedule.

    A step is affine in everything of x's shape that the state holds (the sample and the history) and in the noise: its
    matrix is what it makes of the mean with one coordinate raised by one, all of them in one batch.
    """
    sampler = SAMPLERS[name]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def propagate(which, data, grid, steps, mean, covariance):
        schedule = any_schedule(which)
        denoise = exact_denoiser(data, schedule)
        plan = timesteps.Plan(grid[:-1], grid[1:], jnp.zeros(grid.size - 1, bool))
        D, draws = mean.size, sampler.draws

        def advance(i, moments):
            state, covariance = moments
            leaves, tree = jax.tree.flatten(state)
            arrays = [leaf.ndim == 2 for leaf in leaves]  # the others are numbers, such as the length of the last step
            inputs = D * (sum(arrays) + draws)
            raised = jnp.concatenate([jnp.zeros((1, inputs)), jnp.eye(inputs)])
            parts = iter(jnp.split(raised, inputs // D, axis=1))
            batch = [leaf + next(parts) if is_array else leaf for leaf, is_array in zip(leaves, arrays)]
            noise = jnp.stack([*parts]) if draws else jnp.zeros((0, inputs + 1, D))
            new, _ = jax.tree.flatten(sampler.step(tree.unflatten(batch), denoise, schedule, plan, i, noise))
            outputs = jnp.concatenate([leaf for leaf, is_array in zip(new, arrays) if is_array], axis=1)
            matrix = (outputs[1:] - outputs[0]).T
            state = tree.unflatten([leaf[:1] if is_array else leaf for leaf, is_array in zip(new, arrays)])
            spread = jax.scipy.linalg.block_diag(covariance, jnp.eye(D * draws))
            return state, matrix @ spread @ matrix.T

        state = sampler.init(mean[None], schedule, plan)
        size = D * sum(leaf.ndim == 2 for leaf in jax.tree.leaves(state))
        moments = (state, jnp.zeros((size, size)).at[:D, :D].set(covariance))
        state, covariance = jax.lax.fori_loop(0, steps, advance, moments)
        return state.x[0], covariance[:D, :D]

    return propagate


def _moment_error(name, schedule_name, grid, longest=256):
    schedule = SCHEDULES[schedule_name]
    start = oracles.marginal(DATA["gaussian"], *level(schedule, grid[0]))
    if name != "edm(churn)":  # which reads the number of steps of its plan
        grid = np.concatenate([grid, np.full(longest + 1 - grid.size, grid[-1])])
    steps = int(np.argmax(grid == grid[-1]))
    which = list(SCHEDULES).index(schedule_name)
    mean, covariance = _moments(name)(which, DATA["gaussian"], grid, steps, *start)
    exact_mean, exact_covariance = oracles.marginal(DATA["gaussian"], *level(schedule, grid[-1]))
    return max(np.abs(mean - exact_mean).max(), np.abs(covariance - exact_covariance).max())


GRIDS = {
    "cosine": timesteps.uniform,
    "rectified_flow": timesteps.uniform,
    "edm": lambda schedule, steps: timesteps.karras(schedule, steps, 0.002, 80.0),
}
AFFINE = [name for name in STOCHASTIC if name != "predictor_corrector"]  # whose steps depend on the length of the score
# Beside alpha = 0 the noise a^2 sigma / alpha forgets what its first steps did, in the covariance as steps^-(a^2) where
# alpha = 1 - t, and as steps^-(2 a^2 / pi) under cosine: by 3.9 and 2.4 for 16 times as many, once there are many.
SLOWLY = {"interpolant_sde(flow_grpo)"}
SECOND_ORDER = {"dpm_2_ancestral", "edm(churn)", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde(heun)", "dpmpp_3m_sde"}
FAST = [
    ("ddpm", "cosine"),
    ("dpm_2_ancestral", "cosine"),
    ("dpmpp_sde", "edm"),
    ("dpmpp_2m_sde", "rectified_flow"),
    ("dpmpp_3m_sde", "edm"),
    ("interpolant_sde", "cosine"),
    ("interpolant_sde(flow_grpo)", "rectified_flow"),
    ("predictor_corrector(sigma)", "edm"),
]
every_affine = pytest.mark.parametrize(
    "name, schedule_name", slow_but(FAST, [(name, schedule_name) for name in AFFINE for schedule_name in GRIDS])
)


@every_affine
def test_mean_and_covariance_converge_to_the_marginals(name, schedule_name):
    """From the prior to the data, t_max to 0, both singular ends included."""
    counts = (1024, 16384) if name in SLOWLY else (32, 128) if name == "edm(churn)" else (32, 256)
    grids = [np.asarray(GRIDS[schedule_name](SCHEDULES[schedule_name], steps)) for steps in counts]
    coarse, fine = (_moment_error(name, schedule_name, grid, longest=counts[1]) for grid in grids)
    assert fine < 0.05
    assert fine < coarse / (2 if name in SLOWLY else 4)


@every_affine
def test_weak_order_is_the_published_one(name, schedule_name):
    """On an interior interval, sigma / alpha from 4 to 1/4 uniform in log-SNR, with the sampler's own low-order start.

    Langevin's corrections add a small share of the variance however small the predictor's steps: no order there.
    """
    schedule = SCHEDULES[schedule_name]
    counts = (32, 64, 128, 256)
    interior = lambda steps: np.asarray(schedule.inverse_log_snr(-2 * np.log(np.geomspace(4.0, 0.25, steps + 1))))
    errors = [_moment_error(name, schedule_name, interior(steps)) for steps in counts]
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    if "corrector" in name:
        assert errors[-1] < 0.02
    else:
        expected = 2 if name in SECOND_ORDER else 1
        assert abs(order - expected) < 0.2, f"weak order {order:.2f}, {expected} published; errors {errors}"


EXACT_FOR_A_POINT = [
    "ddpm",
    "ddim(0.5)",
    "ddim(1)",
    "ddim",
    "euler_ancestral",
    "dpm_2_ancestral",
    "edm(churn)",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde(heun)",
    "dpmpp_3m_sde",
]


@pytest.mark.parametrize(
    "name, schedule_name",
    slow_but(
        [(name, "cosine") for name in EXACT_FOR_A_POINT],
        [(name, schedule_name) for name in EXACT_FOR_A_POINT for schedule_name in SCHEDULES],
    ),
)
def test_one_point_of_data_gives_exact_marginals_in_any_step(name, schedule_name):
    """With x_0 known, q(x_s | x_t, x_0) of any eta is exact however far the step (Song et al. 2021, lemma 1).

    So is the solution of the reverse equation, and noise added and taken away along the flow.
    """
    schedule = SCHEDULES[schedule_name]
    point = np.array([0.7, -0.4])

    def denoise(x, t):
        return Prediction(jnp.broadcast_to(point, x.shape), (x - schedule.alpha(t) * point) / schedule.sigma(t))

    for t, s in ((1.0, 0.5), (0.8, 0.3003), (0.02, 0.01)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = level(schedule, t), level(schedule, s)
        before = alpha_t * point, sigma_t**2 * np.eye(2)
        mean, covariance = _one_step_moments(SAMPLERS[name], denoise, schedule, t, s, *before)
        np.testing.assert_allclose(mean, alpha_s * point, rtol=1e-9)
        np.testing.assert_allclose(covariance, sigma_s**2 * np.eye(2), rtol=1e-8, atol=1e-12)


@every_schedule
def test_analytic_variance_is_exact_for_round_gaussians_in_any_step(schedule_name):
    """The best variance leaves nothing to improve where one number can say it; for N(0, I) it is `large`."""
    schedule = SCHEDULES[schedule_name]
    mean = np.array([0.7, -0.4])
    c = 0.3
    data = oracles.gaussian(mean, c * np.eye(2))
    sampler = samplers.ddpm("analytic", error=lambda log_snr: c / (1 + c * jnp.exp(log_snr)))
    for t, s in ((1.0, 0.5), (0.8, 0.3003), (0.02, 0.01)):
        before = oracles.marginal(data, *level(schedule, t))
        mean, covariance = _one_step_moments(sampler, exact_denoiser(data, schedule), schedule, t, s, *before)
        exact_mean, exact_covariance = oracles.marginal(data, *level(schedule, s))
        np.testing.assert_allclose(mean, exact_mean, rtol=1e-9)
        np.testing.assert_allclose(covariance, exact_covariance, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("schedule_name", ["cosine", "edm"])
def test_analytic_variance_keeps_the_power_and_is_the_paper_s(schedule_name):
    """The trace of the covariance is right for any Gaussian. Bao et al. 2022, theorem 1, Gamma = E |score|^2 / D."""
    schedule = SCHEDULES[schedule_name]
    data = DATA["gaussian"]
    for t, s in ((0.9, 0.5), (0.3, 0.01)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = level(schedule, t), level(schedule, s)
        sampler = SAMPLERS["ddpm(analytic)"]
        denoise = exact_denoiser(data, schedule)
        before = oracles.marginal(data, alpha_t, sigma_t)
        _, covariance = _one_step_moments(sampler, denoise, schedule, t, s, *before)
        exact = oracles.marginal(data, alpha_s, sigma_s)[1]
        np.testing.assert_allclose(np.trace(covariance), np.trace(exact), rtol=1e-9)

        gamma = np.trace(np.linalg.inv(oracles.marginal(data, alpha_t, sigma_t)[1])) / 2  # E |C^-1 (x - m)|^2 / D
        a = alpha_t / alpha_s
        small = sigma_s**2 - (a * sigma_s**2 / sigma_t) ** 2
        published = small + (sigma_t / a - np.sqrt(sigma_s**2 - small)) ** 2 * (1 - sigma_t**2 * gamma)
        _, matrix = _matrix(_one_step(sampler, denoise, schedule, t, s), np.zeros(2), draws=1)
        np.testing.assert_allclose(matrix[:, 2:], np.sqrt(published) * np.eye(2), rtol=1e-7, atol=1e-12)


def test_a_denoising_error_has_a_noise_for_each_sample():
    """One key for all samples would be broadcast: one noise, whose error is that of a single draw."""
    keys, x_0 = jax.random.split(jax.random.key(0), 1), jnp.zeros((4, 2))
    denoise = lambda x, t: Prediction(x, x)
    schedule = schedules.rectified_flow()
    with pytest.raises(ValueError, match=r"one key for each sample"):
        samplers.denoising_error(denoise, schedule, x_0, [0.5], keys)
    with pytest.raises(TypeError, match="x_0"):
        samplers.denoising_error(denoise, schedule, jnp.zeros((1, 2), int), [0.5], keys)


def test_denoising_error_is_that_of_the_exact_denoiser():
    """The mean of the posterior variances, at alpha = 0 too, and constant beyond the last times."""
    schedule = SCHEDULES["cosine"]
    data = DATA["gaussian"]
    B = 4000
    x_0 = jnp.asarray(np.random.default_rng(0).multivariate_normal(data.means[0], oracles.covariance(data), B))
    times = np.array([0.3, 1.0, 0.6])
    keys = jax.random.split(jax.random.key(0), B)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def estimate(x_0, keys, log_snr):
        return samplers.denoising_error(exact_denoiser(data, schedule), schedule, x_0, times, keys)(log_snr)

    levels = np.append(schedule.log_snr(times), [-np.inf, np.inf])
    at_0_3, at_1, at_0_6, before, beyond = estimate(x_0, keys, levels)
    for error, t in ((at_0_3, 0.3), (at_1, 1.0), (at_0_6, 0.6)):
        exact = np.trace(oracles.posterior_covariance(data, *level(schedule, t))) / 2
        np.testing.assert_allclose(error, exact, rtol=0.06)
    np.testing.assert_allclose([before, beyond], [at_1, at_0_3], rtol=1e-12)


@pytest.mark.parametrize("schedule", [schedules.cosine(), schedules.sub_vp()])
def test_langevin_correction_of_a_gaussian(schedule):
    """From the exact marginal, three times: C <- (I - e C^-1) C (I - e C^-1) + 2 e I with e = 2 (snr sigma_s)^2."""
    data = DATA["gaussian"]
    t = 0.5
    s = 0.2
    still = samplers.Sampler(samplers.ddpm().init, lambda state, *_: state, 0, lambda steps: 0)
    sampler = samplers.predictor_corrector(still, snr=0.3, corrections=3, step_size="sigma")
    exact_mean, exact = oracles.marginal(data, *level(schedule, s))
    e = 2 * (0.3 * level(schedule, s)[1]) ** 2
    shrink = np.eye(2) - e * np.linalg.inv(exact)
    expected = exact
    for _ in range(3):
        expected = shrink @ expected @ shrink.T + 2 * e * np.eye(2)
    denoise = exact_denoiser(data, schedule)
    mean, covariance = _one_step_moments(sampler, denoise, schedule, t, s, exact_mean, exact)
    np.testing.assert_allclose(mean, exact_mean, rtol=1e-12)
    np.testing.assert_allclose(covariance, expected, rtol=1e-9)


def test_norms_tend_to_sigma_in_many_dimensions():
    """For data at one point |score| = |eps| / sigma, and both norms are sqrt(D)."""
    schedule = SCHEDULES["edm"]
    s = 0.01
    D = 20000
    still = samplers.Sampler(samplers.ddpm().init, lambda state, *_: state, 0, lambda steps: 0)
    x, z = np.random.default_rng(0).standard_normal((2, 1, D))
    x = level(schedule, s)[1] * x
    z = z[None]
    denoise = lambda x, t: Prediction(0 * x, x / schedule.sigma(t))
    plan = timesteps.plan(np.array([0.02, s]))
    outs = []
    for rule in ("norms", "sigma"):
        sampler = samplers.predictor_corrector(still, step_size=rule)
        state = sampler.init(jnp.asarray(x), schedule, plan)
        outs.append(np.asarray(sampler.step(state, denoise, schedule, plan, 0, jnp.asarray(z)).x))
    moved = np.linalg.norm(outs[1] - x)
    assert 0 < np.linalg.norm(outs[0] - outs[1]) < 0.05 * moved


def test_noises_of_dpmpp_sde_are_increments_of_one_motion():
    """With the estimate held fixed a step is the composition of its halves: Cov(x_m, x_s) = (dx_s / dx_m) Var(x_m)."""
    schedule = SCHEDULES["cosine"]
    seen = []

    def denoise(x, t):
        seen.append((x, t))
        return Prediction(jnp.zeros_like(x), x / schedule.sigma(t))

    t, s = 0.8, 0.3
    step = _one_step(samplers.dpmpp_sde(), denoise, schedule, t, s)
    x_s = step(jnp.zeros((2, 1)), jnp.eye(2)[:, :, None])[:, 0]
    (x_m, m) = seen[1]
    a, _, _ = oracles.ancestral(level(schedule, m), level(schedule, s))
    _, _, variance = oracles.ancestral(level(schedule, t), level(schedule, m))
    np.testing.assert_allclose((x_m[:, 0] ** 2).sum(), variance, rtol=1e-9)
    np.testing.assert_allclose((x_m[:, 0] * x_s).sum(), a * variance, rtol=1e-9)


@pytest.mark.parametrize("schedule_name", ["linear_beta", "cosine"])
def test_large_variance_is_exact_for_standard_normal_data(schedule_name):
    """Of the two extreme choices of Ho et al. 2020, section 3.2, beta is right for x_0 ~ N(0, I)."""
    schedule = SCHEDULES[schedule_name]
    data = oracles.gaussian([0.0, 0.0], np.eye(2))
    for t, s in ((0.9, 0.5), (0.3003, 0.1)):
        denoise = exact_denoiser(data, schedule)
        mean, covariance = _one_step_moments(samplers.ddpm("large"), denoise, schedule, t, s, np.zeros(2), np.eye(2))
        np.testing.assert_allclose(mean, 0, atol=1e-12)
        np.testing.assert_allclose(covariance, np.eye(2), atol=1e-10)
