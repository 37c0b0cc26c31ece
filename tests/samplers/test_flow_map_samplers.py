"""Samplers of flow maps, on the exact map of Gaussian data: the solution of the probability flow in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import flow_maps, samplers, timesteps
from diffusion.flows.flow_maps import FlowMap
from diffusion.parameterizations import Prediction
from diffusion.samplers.sample import keys_of_step, normal
from tests import oracles
from tests.conformance import DATA, SCHEDULES, exact_denoiser, level, slow_but, start

MAPS = {
    "flow_map": samplers.flow_map(),
    "consistency": samplers.consistency(),
    "clipped": samplers.clipped(samplers.consistency(), 1e6),
    "tcd": samplers.tcd(),
    "tcd(0.7)": samplers.tcd(0.7),
}
every_map_sampler = pytest.mark.parametrize("name", list(MAPS))
two_schedules = pytest.mark.parametrize("schedule_name", ["cosine", "edm"])
GAUSSIAN = DATA["gaussian"]


def _exact_map(schedule):
    at = lambda t: (schedule.alpha(t), schedule.sigma(t))
    return FlowMap(lambda x, t, s: oracles.flow(GAUSSIAN, at(t), at(s), x))


def _grid(schedule, steps):
    """From t_max to 0, not uniform."""
    return schedule.t_max * np.linspace(1, 0, steps + 1) ** 1.7


def _trajectory(name, schedule, x, keys, steps):
    plan = timesteps.plan(_grid(schedule, steps))
    return samplers.sample_trajectory(MAPS[name], _exact_map(schedule), schedule, x, plan, keys)


@two_schedules
@pytest.mark.parametrize("steps", [1, 5])
def test_an_exact_map_stays_on_its_trajectory(schedule_name, steps, x64):
    """Whatever the number of steps, and both ends included."""
    schedule = SCHEDULES[schedule_name]
    x, keys = start(schedule)
    x = x.astype(jnp.float64)
    _, way = _trajectory("flow_map", schedule, x, keys, steps)
    for t, x_t in zip(_grid(schedule, steps), way.x):
        exact = oracles.flow(GAUSSIAN, level(schedule, schedule.t_max), level(schedule, t), x)
        np.testing.assert_allclose(x_t, exact, rtol=1e-9, atol=1e-9)


def test_a_flow_map_inverts_on_a_plan_that_goes_up(x64):
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)
    grid = np.array([0.0, 0.2, 0.9])
    exact = _exact_map(schedule)
    up = samplers.sample(samplers.flow_map(), exact, schedule, x.astype(jnp.float64), timesteps.plan(grid), keys)
    down = samplers.sample(samplers.flow_map(), exact, schedule, up, timesteps.plan(grid[::-1]), keys)
    np.testing.assert_allclose(down, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name, schedule_name",
    slow_but(
        [*((name, "cosine") for name in MAPS), ("tcd", "edm")],
        [(name, schedule) for name in MAPS for schedule in ("cosine", "edm")],
    ),
)
def test_every_step_keeps_the_exact_moments(name, schedule_name, x64):
    """Mean and covariance of x_s after each step, by propagating the step's own Jacobians in (x, noise)."""
    schedule = SCHEDULES[schedule_name]
    sampler = MAPS[name]
    grid = _grid(schedule, 3)
    plan = timesteps.Plan(jnp.asarray(grid[:-1]), jnp.asarray(grid[1:]), jnp.zeros(3, bool))
    mean, covariance = oracles.marginal(GAUSSIAN, *level(schedule, grid[0]))

    @jax.jit
    def affine(mean, i):
        """The step at the mean, which is affine in (x, noise) on Gaussian data, and its two Jacobians."""

        def step(x, noise):
            state = sampler.init(x[None], schedule, plan)
            return sampler.step(state, _exact_map(schedule), schedule, plan, i, noise[None, None]).x[0]

        still = jnp.zeros_like(mean)
        return step(mean, still), *jax.jacfwd(step, argnums=(0, 1))(mean, still)

    for i, s in enumerate(grid[1:]):
        mean, by_x, by_noise = affine(jnp.asarray(mean), i)
        covariance = by_x @ covariance @ by_x.T + by_noise @ by_noise.T
        exact_mean, exact_covariance = oracles.marginal(GAUSSIAN, *level(schedule, s))
        np.testing.assert_allclose(mean, exact_mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(covariance, exact_covariance, rtol=1e-9, atol=1e-9)
        assert (np.abs(by_noise).max() > 0) == (sampler.draws > 0 and s > 0)


def test_consistency_is_the_authors_multistep_loop():
    """Song et al. 2023, algorithm 1, in their variables (variance exploding), with a map that is not exact."""
    schedule = SCHEDULES["variance_exploding"]
    grid = np.array([1.0, 0.3, 0.1, 0.0])
    f = lambda x, sigma: jnp.tanh(x / (1 + sigma))
    wrong_map = FlowMap(lambda x, t, s: f(x, schedule.sigma(t)) + 1e6 * s)  # of no use at s > 0
    x, keys = start(schedule)
    _, way = samplers.sample_trajectory(samplers.consistency(), wrong_map, schedule, x, timesteps.plan(grid), keys)
    sigmas = np.asarray(schedule.sigma(grid))
    sample = f(x, sigmas[0])
    for i, sigma in enumerate(sigmas[1:-1]):
        z = normal(keys_of_step(keys, i)[0], 1, x)[0]
        sample = f(sample + sigma * z, sigma)
    np.testing.assert_allclose(way.x[-1], sample, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(way.x0[-1], sample, rtol=1e-4, atol=1e-5)


@pytest.mark.extended
def test_tcd_goes_from_the_flow_map_to_consistency():
    """gamma = 0 uses no noise and is the former; gamma = 1 the latter with the same keys."""
    schedule = SCHEDULES["rectified_flow"]
    x, keys = start(schedule)
    plan = timesteps.plan(_grid(schedule, 3))
    wrong_map = FlowMap(lambda x, t, s: x * (0.1 + s / t) + s)  # on which the three differ
    run = lambda sampler: jax.jit(lambda x: samplers.sample(sampler, wrong_map, schedule, x, plan, keys))(x)
    assert samplers.tcd(0.0).draws == 0
    np.testing.assert_array_equal(run(samplers.tcd(0.0)), run(samplers.flow_map()))
    np.testing.assert_allclose(run(samplers.tcd(1.0)), run(samplers.consistency()), rtol=1e-5, atol=1e-5)
    assert np.abs(run(samplers.tcd(0.3)) - run(samplers.flow_map())).max() > 1e-2


def test_tcd_jumps_to_the_share_of_s_that_gamma_leaves():
    schedule = SCHEDULES["rectified_flow"]
    seen = []
    plan = timesteps.Plan(jnp.array([1.0, 0.5]), jnp.array([0.5, 0.0]), jnp.zeros(2, bool))

    def flow_map(x, t, s):
        seen.append((float(t), float(s)))
        return x

    for i in range(2):
        samplers.tcd(0.3).step(samplers.State(jnp.ones(1), jnp.ones(1)), flow_map, schedule, plan, i, jnp.zeros((1, 1)))
    np.testing.assert_allclose(seen, [(1.0, 0.35), (0.5, 0.0)], rtol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize(
    "name, schedule_name",
    slow_but(
        [*((name, "edm") for name in MAPS), *(("tcd", name) for name in ("cosine", "rectified_flow"))],
        [(name, schedule) for name in MAPS for schedule in SCHEDULES],
    ),
)
def test_one_two_and_three_steps_are_finite_and_cost_one_evaluation_each(name, schedule_name):
    schedule = SCHEDULES[schedule_name]
    calls = []
    x, keys = start(schedule)

    def flow_map(x, t, s):
        calls.append(1)
        return x * (schedule.alpha(s) * 0.5 + schedule.sigma(s)) / (schedule.alpha(t) * 0.5 + schedule.sigma(t))

    with jax.disable_jit():
        for steps in (1, 2, 3):
            calls.clear()
            out = samplers.sample(
                MAPS[name], FlowMap(flow_map), schedule, x, timesteps.plan(_grid(schedule, steps)), keys
            )
            assert out.dtype == jnp.float32 and np.isfinite(out).all()
            assert len(calls) == MAPS[name].nfe(steps) == steps


@pytest.mark.parametrize("name", slow_but([("tcd",)], [(name,) for name in MAPS]))
def test_a_sample_depends_on_its_own_seed_alone(name):
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)
    run = jax.jit(lambda x, keys: _trajectory(name, schedule, x, keys, 3)[0])
    out = run(x, keys)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(run(x[order], keys[order]), out[order], rtol=1e-5, atol=1e-6)
    changed = run(x, keys.at[0].set(jax.random.key(99)))
    np.testing.assert_array_equal(changed[1:], out[1:])
    assert np.asarray(changed[0] != out[0]).all() == (MAPS[name].draws > 0)


def test_gradient_through_a_stochastic_trajectory_is_finite():
    """The last step adds no noise; its variance of zero must not make the gradient NaN."""
    schedule = SCHEDULES["rectified_flow"]
    x, keys = start(schedule)
    plan = timesteps.plan(np.array([1.0, 0.5, 0.0]))
    loss = lambda w: samplers.sample(
        samplers.tcd(0.5), FlowMap(lambda x, t, s: w * x * (1 - t + s)), schedule, x, plan, keys
    ).sum()
    assert np.isfinite(jax.jit(jax.grad(loss))(0.5))


def test_networks_as_maps_sample():
    """The maps of the library fit these samplers: a consistency function, and a network of two times."""
    schedule = SCHEDULES["rectified_flow"]
    keys = jax.random.split(jax.random.key(0), 4)
    x = start(schedule)[0]
    plan = timesteps.plan(np.array([1.0, 0.5, 0.0]))
    two_times = flow_maps.mean_flow(lambda x, clocks, condition: 0.5 * x, schedule)
    np.testing.assert_allclose(
        samplers.sample(samplers.flow_map(), two_times, schedule, x, plan, keys), 0.75**2 * x, rtol=1e-5
    )
    ddim = flow_maps.from_denoiser(exact_denoiser(GAUSSIAN, schedule), schedule)
    np.testing.assert_allclose(
        samplers.sample(samplers.flow_map(), ddim, schedule, x, plan, keys),
        samplers.sample(samplers.ddim(), exact_denoiser(GAUSSIAN, schedule), schedule, x, plan, keys),
        rtol=1e-5,
        atol=1e-6,
    )


@every_map_sampler
def test_denoisers_and_maps_are_not_mistaken_for_each_other(name):
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)
    plan = timesteps.plan(np.array([1.0, 0.0]))
    with pytest.raises(TypeError, match=r"takes FlowMap, but got .*ddim"):
        samplers.sample(MAPS[name], lambda x, t: Prediction(x, x), schedule, x, plan, keys)
    with pytest.raises(TypeError, match=r"takes FlowMap, but got .*ddim"):
        samplers.sample(MAPS[name], jax.jit(lambda x, t: Prediction(x, x)), schedule, x, plan, keys)
    with pytest.raises(TypeError, match=r"takes a denoiser .* got .*FlowMap; .* consistency"):
        samplers.sample(samplers.ddim(), _exact_map(schedule), schedule, x, plan, keys)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_bad_gamma_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma"):
        samplers.tcd(gamma)


def test_stochastic_map_samplers_do_not_invert():
    schedule = SCHEDULES["cosine"]
    x, keys = start(schedule)
    with pytest.raises(ValueError, match="invert"):
        samplers.sample(
            samplers.consistency(), _exact_map(schedule), schedule, x, timesteps.plan(np.array([0.1, 0.5])), keys
        )


@pytest.mark.extended
def test_consistency_leaves_out_the_noise_of_the_authors_smallest_time():
    """x_s = x0 + sqrt(s^2 - sigma_min^2) z, by the difference of two runs with the same noise."""
    schedule = SCHEDULES["edm"]
    x, keys = start(schedule)
    plan = timesteps.plan(np.array([1.0, 0.1]))
    zero = FlowMap(lambda x, t, s: jnp.zeros_like(x))
    run = lambda sampler: samplers.sample(sampler, zero, schedule, x, plan, keys)
    sigma = float(schedule.sigma(0.1))
    whole = run(samplers.consistency())
    np.testing.assert_allclose(run(samplers.consistency(6.0)), whole * np.sqrt(1 - 36 / sigma**2), rtol=1e-5)
    np.testing.assert_allclose(run(samplers.consistency(2 * sigma)), 0)


def test_the_authors_smallest_time_is_a_ratio_of_sigma_to_alpha():
    """x_s = alpha_s sqrt((sigma_s / alpha_s)^2 - sigma_min^2) z, for a map to 0."""
    schedule = SCHEDULES["cosine"]
    zero = FlowMap(lambda x, t, s: jnp.zeros_like(x))
    z = jnp.array([[[0.5, -2.0]]])
    plan = timesteps.Plan(jnp.array([1.0]), jnp.array([0.4]), np.zeros(1, bool))
    found = samplers.consistency(0.3).step(samplers.State(z[0], z[0]), zero, schedule, plan, 0, z).x
    alpha, sigma = level(schedule, 0.4)
    np.testing.assert_allclose(found, alpha * np.sqrt((sigma / alpha) ** 2 - 0.09) * z[0], rtol=1e-5)


def test_what_a_map_returns_is_clipped():
    schedule = SCHEDULES["cosine"]
    outside = FlowMap(lambda x, t, s: jnp.where(x > 0, 2.0, -3.0))
    made = _one_step(samplers.clipped(samplers.flow_map(), 0.5), outside, schedule)
    np.testing.assert_array_equal(made, [[0.5, -0.5]])


def test_padding_takes_no_part_in_a_map():
    """The map sees 0 there, whatever it returns; what is real of its sample is as without padding."""
    schedule = SCHEDULES["cosine"]
    real = jnp.array([[True, False]])
    of_all = FlowMap(lambda x, t, s: x + x.sum(1, keepdims=True) + 7)
    made = _one_step(samplers.padded(samplers.flow_map(), real), of_all, schedule)
    np.testing.assert_array_equal(made, [[3.0 + 3 + 7, 0]])


def _one_step(sampler, flow_map, schedule):
    """Of [3, -4], from the last time to the first."""
    plan = timesteps.plan(np.array([schedule.t_max, schedule.t_min]))
    keys = jax.random.split(jax.random.key(0), 1)
    return samplers.sample(sampler, flow_map, schedule, jnp.array([[3.0, -4.0]]), plan, keys)
