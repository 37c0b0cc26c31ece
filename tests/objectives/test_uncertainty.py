"""Learned uncertainty weighting: its optimum, its gradients, and what it asks of the networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps, weightings

SCHEDULE = schedules.edm()
B = 16
KEYS = jax.random.split(jax.random.key(0), B)
BATCH = {"x": jnp.ones((B, 3)), "condition": None}
INNER = objectives.denoising(parameterizations.edm(), weightings.edm(), timesteps.log_normal(SCHEDULE))
OBJECTIVE = objectives.with_uncertainty(INNER)
PAIR = objectives.uncertainty(channels=8)


def _networks(scale, params):
    return {
        "model": lambda x, clock, condition: scale * x,
        "uncertainty": lambda x, clock, condition: PAIR.apply(params, clock),
    }


@functools.cache
def _run():
    return jax.jit(lambda scale, params: OBJECTIVE(_networks(scale, params), SCHEDULE, KEYS, BATCH, 0))


@pytest.mark.extended
def test_it_starts_as_the_plain_objective():
    losses, metrics = _run()(0.5, PAIR.init())
    plain, _ = INNER(_networks(0.5, None), SCHEDULE, KEYS, BATCH, 0)
    np.testing.assert_allclose(losses, plain, rtol=1e-6)
    np.testing.assert_array_equal(metrics["uncertainty"], 0)
    assert losses.shape == metrics["t"].shape == (B,)
    assert losses.dtype == jnp.float32


def test_losses_are_equation_21():
    """loss / exp(u) + u with u of ln(sigma) / 4, sigma = 80 t, from the features by hand."""
    params = {"weight": jnp.asarray(np.random.default_rng(0).standard_normal(8), jnp.float32)}
    losses, metrics = _run()(0.5, params)
    generator = np.random.default_rng(0)  # the frequencies of seed 0, in the order in which they are drawn
    frequencies = 2 * np.pi * generator.standard_normal(8)
    phases = 2 * np.pi * generator.random(8)
    clock = np.log(80 * np.asarray(metrics["t"], np.float64)) / 4
    u = np.sqrt(2) * np.cos(clock[:, None] * frequencies + phases) @ np.asarray(params["weight"], np.float64)
    np.testing.assert_allclose(metrics["uncertainty"], u, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(losses, metrics["unweighted"] * np.exp(-u) + u, rtol=1e-3)


@pytest.mark.parametrize("name", ["rectified_flow", pytest.param("zero_terminal_snr", marks=pytest.mark.extended)])
def test_the_uncertainty_is_finite_where_no_data_is_left(name):
    """At alpha = 0 ln(sigma / alpha) is infinite, and so would be the loss of every example drawn at t_max."""
    schedules_by_name = {
        "rectified_flow": schedules.rectified_flow,
        "zero_terminal_snr": lambda: schedules.zero_terminal_snr(schedules.linear_beta(T=10)),
    }
    schedule, v = schedules_by_name[name](), parameterizations.v()
    at_end = timesteps.from_quantile(lambda u: jnp.where(u > 0.5, schedule.t_max, 0.5 + 0 * u))
    objective = objectives.with_uncertainty(objectives.denoising(v, weightings.constant(v), at_end))
    params = {"weight": jnp.ones(8)}
    total = lambda params: (lambda losses, metrics: (losses.sum(), (losses, metrics)))(
        *objective(_networks(0.5, params), schedule, KEYS, BATCH, 0)
    )
    slope, (losses, metrics) = jax.jit(jax.grad(total, has_aux=True))(params)
    assert set(np.asarray(metrics["t"])) == {0.5, 1.0}
    expected = metrics["unweighted"] * np.exp(-metrics["uncertainty"]) + metrics["uncertainty"]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert np.isfinite(slope["weight"]).all() and np.isfinite(losses).all()


def test_optimum_is_the_logarithm_of_the_loss():
    """d/du (L e^-u + u) = 0 at u = ln L, where the value is 1 + ln L; and nowhere else, for it is convex in u."""
    unweighted = _run()(0.5, PAIR.init())[1]["unweighted"]

    def value(u):
        networks = {**_networks(0.5, None), "uncertainty": lambda x, clock, condition: u}
        return OBJECTIVE(networks, SCHEDULE, KEYS, BATCH, 0)[0].sum()

    at_best, gradient = jax.value_and_grad(value)(jnp.log(unweighted))
    np.testing.assert_allclose(at_best, (1 + jnp.log(unweighted)).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)
    np.testing.assert_allclose(jax.grad(value)(jnp.log(unweighted) + 1), 1 - np.exp(-1), rtol=1e-4)


def test_gradient_of_the_model_is_relative_to_the_loss():
    """At the optimal u it is that of the sum of log losses: no noise level outweighs another by its size."""
    unweighted = _run()(0.5, PAIR.init())[1]["unweighted"]

    def value(scale):
        networks = {**_networks(scale, None), "uncertainty": lambda x, clock, condition: jnp.log(unweighted)}
        return OBJECTIVE(networks, SCHEDULE, KEYS, BATCH, 0)[0].sum()

    def log_losses(scale):
        return jnp.log(INNER(_networks(scale, None), SCHEDULE, KEYS, BATCH, 0)[0]).sum()

    np.testing.assert_allclose(jax.grad(value)(0.5), jax.grad(log_losses)(0.5), rtol=1e-4)


def test_the_network_can_fit_a_curve():
    """Gradient descent on u alone brings the loss near its least value, mean(1 + ln L) for a smooth L(sigma)."""
    pair = objectives.uncertainty(channels=32)
    clock = jnp.linspace(-1.5, 1.0, 64)
    losses = 3 * jnp.exp(1.5 * clock)

    @jax.jit
    def fitted(params):
        value = lambda params: jnp.mean(losses * jnp.exp(-pair.apply(params, clock)) + pair.apply(params, clock))
        step = lambda params, _: (jax.tree.map(lambda p, g: p - 0.02 * g, params, jax.grad(value)(params)), None)
        return value(jax.lax.scan(step, params, None, 2000)[0])

    least = jnp.mean(1 + jnp.log(losses))
    assert least - 1e-5 <= fitted(pair.init()) < least + 0.02


def test_a_missing_network_is_named():
    with pytest.raises(ValueError, match="uncertainty"):
        OBJECTIVE({"model": lambda x, clock, condition: x}, SCHEDULE, KEYS, BATCH, 0)


def test_times_per_frame_are_refused():
    inner = lambda networks, schedule, keys, batch, step: (jnp.ones(B), {"t": jnp.ones((B, 2))})
    with pytest.raises(ValueError, match="one time"):
        objectives.with_uncertainty(objectives.Objective(inner))(_networks(0.5, PAIR.init()), SCHEDULE, KEYS, BATCH, 0)


def test_bad_channels_are_refused():
    with pytest.raises(ValueError, match="channels = 0"):
        objectives.uncertainty(0)


def test_channels_are_those_of_the_authors_and_one_is_enough():
    assert objectives.uncertainty().init()["weight"].shape == (128,)
    one = objectives.uncertainty(1)
    clock = jnp.linspace(-1, 1, 5)
    found = one.apply({"weight": jnp.ones(1)}, clock)
    assert found.shape == (5,) and np.ptp(found) > 0.1 and np.abs(found).max() <= 2**0.5 + 1e-6


def test_the_clock_of_leaves_with_a_schedule_each_is_the_mean_of_their_noise_levels():
    """ln(sigma / alpha) / 4 of both, at the time of each example."""
    parts = {"a": schedules.cosine(), "b": schedules.rectified_flow()}
    t, clocks = jnp.array([0.2, 0.6, 0.9]), []
    loss = lambda networks, schedule, keys, batch, step: (jnp.ones(3), {"t": t})
    objective = objectives.with_uncertainty(objectives.Objective(loss, reads=None))
    network = lambda x, clock, condition: clocks.append(clock) or jnp.zeros(3)
    batch = {"x": jnp.zeros((3, 4))}
    joint = schedules.per_leaf(parts, {name: (2,) for name in parts})
    objective({"uncertainty": network}, joint, jax.random.split(jax.random.key(0), 3), batch, 0)
    level = lambda schedule: np.log(np.asarray(schedule.sigma(t), np.float64) / np.asarray(schedule.alpha(t)))
    np.testing.assert_allclose(clocks[0], (level(parts["a"]) + level(parts["b"])) / 2 / 4, rtol=1e-4)
