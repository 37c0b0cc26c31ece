"""Flow maps against the exact probability flow, and the published preconditionings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import flow_maps, parameterizations, samplers, schedules, timesteps
from diffusion.parameterizations import Prediction
from tests import oracles
from tests.conformance import level

FLOW = schedules.rectified_flow()
EDM = schedules.edm()
COSINE = schedules.cosine()
DATA = oracles.tilted_gaussian()
X = np.array([[0.9, -0.5], [-1.1, 1.6], [2.2, 0.3]])
V = parameterizations.v()


def flow(schedule, t, s, x):
    return oracles.flow(DATA, level(schedule, t), level(schedule, s), x)


def exact_denoiser(schedule):
    def denoise(x, t):
        alpha = schedule.alpha(t)
        sigma = schedule.sigma(t)
        return Prediction(oracles.mean_x0(DATA, alpha, sigma, x), oracles.mean_eps(DATA, alpha, sigma, x))

    return denoise


def test_consistency_map_returns_the_networks_estimate_at_zero_and_x_where_it_starts(x64):
    """f = cos(a) x - sin(a) v on a variance-preserving schedule; s = t changes nothing, for any network."""
    network = lambda x, clock, condition: jnp.tanh(x) + clock[:, None] + condition[:, None]
    condition = jnp.arange(3.0)
    flow_map = flow_maps.consistency(network, COSINE, V, condition)
    alpha, sigma = level(COSINE, 0.6)
    v = np.tanh(X) + 0.6 + np.arange(3.0)[:, None]
    f = alpha * X - sigma * v
    np.testing.assert_allclose(flow_map(X, 0.6, 0.0), f, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(flow_map(X, 0.6, 0.6), X, rtol=1e-6, atol=1e-7)
    alpha_s, sigma_s = level(COSINE, 0.2)
    line = alpha_s * f + sigma_s * (X - alpha * f) / sigma
    np.testing.assert_allclose(flow_map(X, jnp.full(3, 0.6), jnp.full(3, 0.2)), line, rtol=1e-6, atol=1e-7)


def test_heun_averages_the_noise_at_both_times():
    """Its formula in NumPy, for a noise that depends on the sample and on the time."""
    noise = lambda x, t: np.sin(3 * t) * x + t
    data = lambda x, t: (x - np.cos(5 * t)) / 2
    denoise = lambda x, t: Prediction(data(x, t), noise(x, t))
    x_s = flow_maps.heun(denoise, COSINE)(X, 0.6, 0.2)
    (alpha_t, sigma_t), (alpha, sigma) = level(COSINE, 0.6), level(COSINE, 0.2)
    euler = alpha * data(X, 0.6) + sigma * noise(X, 0.6)
    change = alpha * (sigma / alpha - sigma_t / alpha_t) / 2 * (noise(euler, 0.2) - noise(X, 0.6))
    np.testing.assert_allclose(x_s, euler + change, rtol=1e-5, atol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("make, order", [(flow_maps.from_denoiser, 2), (flow_maps.heun, 3)])
def test_one_step_of_a_denoiser_errs_by_its_order(make, order, x64):
    """Locally one more than the order of the method."""
    flow_map = make(exact_denoiser(COSINE), COSINE)
    gaps = np.array([0.08, 0.04, 0.02, 0.01])
    errors = [np.abs(flow_map(X, 0.6, 0.6 - gap) - flow(COSINE, 0.6, 0.6 - gap, X)).max() for gap in gaps]
    measured = np.polyfit(np.log(gaps), np.log(errors), 1)[0]
    assert abs(measured - order) < 0.2, (measured, errors)


def test_mean_flow_and_shortcut_tell_their_networks_both_times_and_the_condition():
    seen, labels = [], jnp.arange(3)

    def network(x, clocks, condition):
        assert condition is labels
        seen.append(clocks)
        return jnp.full_like(x, 2.0)

    thousand = parameterizations.steps()
    maps = {
        flow_maps.mean_flow(network, FLOW, labels): (0.8, 0.6),
        flow_maps.mean_flow(network, FLOW, labels, flow_maps.start_and_end()): (0.8, 0.2),
        flow_maps.mean_flow(network, FLOW, labels, flow_maps.start_and_end(thousand)): (799.0, 199.0),
        flow_maps.mean_flow(network, FLOW, labels, flow_maps.start_and_duration(thousand)): (799.0, 600.0),
        flow_maps.shortcut(network, FLOW, labels, thousand): (799.0, 600.0),
    }
    for flow_map, clocks in maps.items():
        np.testing.assert_allclose(flow_map(jnp.float32(X), 0.8, 0.2), X - 0.6 * 2, rtol=1e-6)
        for clock, expected in zip(seen[-1], clocks, strict=True):
            np.testing.assert_allclose(clock, np.full(3, expected), rtol=1e-4)


def test_exact_mean_velocity_is_the_flow_in_one_step_and_in_three(x64):
    """(x_t - flow) / (t - s), up and down, through the sampler of flow maps."""
    exact = jax.vmap(
        lambda x, t, s: oracles.flow(DATA, (FLOW.alpha(t), FLOW.sigma(t)), (FLOW.alpha(s), FLOW.sigma(s)), x[None])[0]
    )
    network = lambda x, clocks, c: (x - exact(x, *clocks)) / (clocks[0] - clocks[1])[:, None]
    flow_map = flow_maps.mean_flow(network, FLOW, clocks=flow_maps.start_and_end())
    for grid in ([1.0, 0.0], [1.0, 0.7, 0.2, 0.0], [0.1, 0.5, 0.9]):
        keys = jax.random.split(jax.random.key(0), 3)
        found = samplers.sample(samplers.flow_map(), flow_map, FLOW, jnp.asarray(X), timesteps.plan(grid), keys)
        np.testing.assert_allclose(found, flow(FLOW, grid[0], grid[-1], X), rtol=1e-9, atol=1e-9)


def test_consistency_boundary_is_the_published_one(x64):
    """Song et al. 2023, appendix C, in sigma; at sigma_min f(x) = x whatever the network says."""
    boundary = flow_maps.consistency_boundary(0.5, 0.002)
    F = np.array([[3.0, -2.0], [0.5, 0.1], [-9.0, 4.0]])
    for sigma in (0.002, 0.01, 1.0, 80.0):
        t = sigma / 80
        c_skip = 0.25 / ((sigma - 0.002) ** 2 + 0.25)
        c_out = 0.5 * (sigma - 0.002) / np.sqrt(0.25 + sigma**2)
        prediction = boundary.to_prediction(EDM, t, X, F)
        np.testing.assert_allclose(prediction.x0, c_skip * X + c_out * F, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(prediction.x0 + sigma * prediction.eps, X, rtol=1e-6)
        np.testing.assert_allclose(boundary.input_scale(EDM, t), 1 / np.sqrt(sigma**2 + 0.25), rtol=1e-6)
        np.testing.assert_allclose(boundary.clock(EDM, t), np.log(sigma) / 4, rtol=1e-6)
        if sigma > 0.002:
            target = boundary.target(EDM, t, X, F)
            np.testing.assert_allclose(boundary.to_prediction(EDM, t, X + sigma * F, target).x0, X, rtol=1e-6)
    np.testing.assert_allclose(boundary.to_prediction(EDM, 0.002 / 80, X, F).x0, X, rtol=1e-6)
    assert not boundary.defined(EDM, 0.001 / 80) and boundary.defined(EDM, 0.002 / 80)
    assert flow_maps.consistency_boundary(clock=parameterizations.steps()).clock(EDM, 0.5) == 499
    prediction = boundary.to_prediction(FLOW, 0.3, X, F)  # where alpha is not 1
    np.testing.assert_allclose(0.7 * prediction.x0 + 0.3 * prediction.eps, X, rtol=1e-6)


def test_consistency_boundary_without_sigma_min_is_edms(x64):
    """On any schedule, both ends included."""
    boundary = flow_maps.consistency_boundary(0.7, 0.0)
    edm = parameterizations.edm(0.7)
    for schedule, t in ((FLOW, 0.0), (FLOW, 0.3), (FLOW, 1.0), (EDM, 0.5)):
        ours, theirs = (p.to_prediction(schedule, t, X, -X) for p in (boundary, edm))
        np.testing.assert_allclose(ours.x0, theirs.x0, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(ours.eps, theirs.eps, rtol=1e-12, atol=1e-12)


def test_latent_consistency_boundary_is_the_published_one(x64):
    """c_skip = 0.25 / ((10 n)^2 + 0.25), c_out = 10 n / sqrt((10 n)^2 + 0.25) at step n = 1000 t; x itself at n = 0."""
    schedule = schedules.linear_beta()
    latent = flow_maps.latent_consistency(parameterizations.epsilon())
    epsilon = parameterizations.epsilon()
    for n in (1, 20, 1000):
        x_0 = epsilon.to_prediction(schedule, n / 1000, X, 0.3 * X).x0
        expected = 0.25 / ((10 * n) ** 2 + 0.25) * X + 10 * n / np.sqrt((10 * n) ** 2 + 0.25) * x_0
        np.testing.assert_allclose(latent.to_prediction(schedule, n / 1000, X, 0.3 * X).x0, expected, rtol=1e-6)
    np.testing.assert_array_equal(latent.to_prediction(schedule, 0.0, X, 0.3 * X).x0, X)


def test_a_map_that_starts_and_ends_at_the_data_stands_still():
    """Where sigma = 0 the noise of a prediction is 0 / 0, and 0 times that is not 0."""
    x = jnp.float32(X)
    latent = flow_maps.latent_consistency(V)
    assert np.isnan(latent.to_prediction(FLOW, 0.0, x, 0.3 * x).eps).all()
    flow_map = flow_maps.consistency(lambda x, clock, condition: 0.3 * x, FLOW, latent)
    np.testing.assert_array_equal(flow_map(x, 0.0, 0.0), x)
    flow_map = flow_maps.from_denoiser(lambda x, t: Prediction(2 * x, jnp.full_like(x, jnp.nan)), FLOW)
    np.testing.assert_array_equal(flow_map(x, 0.0, 0.0), 2 * x)


def test_bad_boundaries_are_refused():
    with pytest.raises(ValueError, match="sigma_data = 0"):
        flow_maps.consistency_boundary(0.0)
    with pytest.raises(ValueError, match="not defined at t = 1"):
        flow_maps.consistency(lambda x, t, c: x, FLOW, parameterizations.epsilon())
