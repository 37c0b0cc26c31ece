"""The adaptive driver: its error follows the tolerance, and a sample's steps are its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import parameterizations, samplers, schedules
from tests import oracles
from tests.conformance import DATA, SCHEDULES, exact_denoiser, level, slow_but, start


@pytest.mark.extended
@pytest.mark.parametrize(
    "schedule_name, kind",
    slow_but(
        [("edm", "gaussian")],  # whose points are no circle: alpha^2 + sigma^2 is not 1
        # The reference solution of a mixture goes neither from alpha = 0 nor to sigma = 0.
        [*((name, "gaussian") for name in SCHEDULES), *((name, "mixture") for name in ("linear_beta", "edm"))],
    ),
)
def test_error_follows_the_tolerance_at_the_price_of_evaluations(schedule_name, kind, x64):
    """From t_max to t_min against the exact flow; of order 5: 10^-4 of the tolerance takes 10^(4/5) of the steps."""
    schedule = SCHEDULES[schedule_name]
    data = DATA[kind]
    x = np.asarray(start(schedule)[0], np.float64)
    flow = oracles.flow if kind == "gaussian" else oracles.flow_by_integration
    exact = flow(data, level(schedule, schedule.t_max), level(schedule, schedule.t_min), x)
    denoise = exact_denoiser(data, schedule)
    tolerances = (1e-4, 1e-8)
    errors = []
    costs = []
    solve = jax.jit(lambda x, tolerance: samplers.adaptive(denoise, schedule, x, tolerance, tolerance))
    for tolerance in tolerances:
        arrived, stats = solve(x, tolerance)
        errors.append(np.abs(arrived - exact).max())
        costs.append(np.asarray(stats.nfe))
    assert (np.array(errors) < 30 * np.array(tolerances)).all(), errors
    assert errors[1] < errors[0] / 1000
    assert (costs[0] < costs[1]).all()
    assert 2 < costs[1].mean() / costs[0].mean() < 8


@pytest.mark.extended
def test_it_begins_at_the_end_of_its_schedule(x64):
    schedule = schedules.ending_at(SCHEDULES["cosine"], 0.7)
    x = jnp.asarray([[0.3, -1.2], [0.8, 0.1]])
    denoise = exact_denoiser(DATA["gaussian"], schedule)
    arrived, _ = jax.jit(lambda x: samplers.adaptive(denoise, schedule, x, 1e-8, 1e-8))(x)
    exact = oracles.flow(DATA["gaussian"], level(schedule, 0.7), level(schedule, schedule.t_min), x)
    np.testing.assert_allclose(arrived, exact, atol=1e-6)
    unfinished, stats = jax.jit(lambda x: samplers.adaptive(denoise, schedule, x, 1e-8, 1e-8, most=2))(x)
    assert np.isnan(unfinished).all() and (stats.nfe == 13).all()


@pytest.mark.extended
def test_a_plan_up_is_the_inverse(x64):
    schedule = SCHEDULES["cosine"]
    denoise = exact_denoiser(DATA["gaussian"], SCHEDULES["cosine"])
    x = jnp.asarray(start(schedule)[0], jnp.float64)

    @jax.jit
    def there_and_back(x):
        up, _ = samplers.adaptive(denoise, schedule, x, 1e-8, 1e-8, t_start=0.05, t_end=0.9)
        return up, samplers.adaptive(denoise, schedule, up, 1e-8, 1e-8, t_start=0.9, t_end=0.05)[0]

    up, down = there_and_back(x)
    exact = oracles.flow(DATA["gaussian"], level(schedule, 0.05), level(schedule, 0.9), x)
    np.testing.assert_allclose(up, exact, atol=1e-6)
    np.testing.assert_allclose(down, x, atol=1e-6)


def test_the_flow_onto_one_point_keeps_its_noise():
    """x_t = m + sigma_t e; edm's alpha^2 + sigma^2, by which the solver scales, is not 1."""
    schedule = SCHEDULES["edm"]
    e = jnp.array([[0.5, -2.0]])
    at = lambda t: 1.5 + schedule.sigma(t) * e
    denoise = lambda x, t: parameterizations.Prediction(jnp.full_like(x, 1.5), (x - 1.5) / schedule.sigma(t)[:, None])
    arrived, _ = samplers.adaptive(denoise, schedule, at(schedule.t_max), t_end=0.3)
    np.testing.assert_allclose(arrived, at(0.3), rtol=1e-3)


def test_steps_are_each_samples_own_and_evaluations_are_counted():
    """Alone, in company and in any order: the same sample from the same number of evaluations."""
    schedule = SCHEDULES["edm"]
    calls = []
    exact = exact_denoiser(DATA["mixture"], schedule)

    def denoise(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return exact(x, t)

    run = jax.jit(lambda x: samplers.adaptive(denoise, schedule, x, 1e-5, 1e-5))
    x = jnp.concatenate([start(schedule, size=3)[0], 80 * jnp.asarray([[3.0, -2.0]])])
    out, stats = jax.block_until_ready(run(x))
    jax.effects_barrier()
    assert len(calls) == int(stats.evaluations) == int(stats.nfe.max())
    assert len(set(np.asarray(stats.nfe).tolist())) > 1
    order = np.array([2, 3, 0, 1])
    shuffled, shuffled_stats = run(x[order])
    np.testing.assert_allclose(shuffled, out[order], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(shuffled_stats.nfe, stats.nfe[order])
    for i in range(4):
        copies, copies_stats = run(jnp.repeat(x[i : i + 1], 4, axis=0))
        np.testing.assert_allclose(copies, jnp.repeat(out[i : i + 1], 4, axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(copies_stats.nfe, jnp.repeat(stats.nfe[i], 4))


@pytest.mark.parametrize("schedule_name", slow_but([("edm",)], [(name,) for name in SCHEDULES]))
def test_float32_arrives_on_every_schedule(schedule_name):
    """At the default tolerance, with networks of v prediction, which are defined at both ends."""
    schedule = SCHEDULES[schedule_name]
    network = lambda x, clock, condition: jnp.tanh(x) * jnp.cos(clock)[:, None]
    denoise = parameterizations.denoiser(network, schedule, parameterizations.v())
    out, stats = jax.jit(lambda x: samplers.adaptive(denoise, schedule, x))(start(schedule)[0])
    assert out.dtype == jnp.float32 and np.isfinite(out).all()
    assert (np.asarray(stats.nfe) < 400).all()


@pytest.mark.parametrize(
    "more, words",
    [
        ({"rtol": 0.0}, "rtol > 0"),
        ({"atol": -1.0}, "atol > 0"),
        ({"most": 0}, "most >= 1"),
        ({"t_start": 1.5}, "t_start = 1.5"),
        ({"t_end": -0.1}, "t_end = -0.1"),
        ({"t_start": 0.5, "t_end": 0.5}, "both 0.5"),
    ],
)
def test_bad_arguments_are_refused_by_name(more, words):
    schedule = SCHEDULES["cosine"]
    with pytest.raises(ValueError, match=words):
        samplers.adaptive(exact_denoiser(DATA["gaussian"], schedule), schedule, start(schedule)[0], **more)
