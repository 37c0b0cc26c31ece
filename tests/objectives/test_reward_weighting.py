"""Reward-weighted regression: the weights, and the tilted data that it teaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import couplings, objectives, parameterizations, schedules, timesteps, weightings

FLOW = schedules.rectified_flow()
X0 = parameterizations.x0()
AT = 0.4
ONE_TIME = timesteps.Density(
    lambda: None, lambda state, keys, index: (jnp.full(keys.shape, AT), jnp.ones(keys.shape)), lambda state, t, l: state
)
PLAIN = objectives.denoising(X0, weightings.constant(X0), ONE_TIME)


def test_a_loss_counts_by_the_exponential_of_its_reward():
    x = jax.random.normal(jax.random.key(0), (6, 3))
    labels = jnp.arange(6)
    reward = lambda x, condition: x[:, 0] + condition
    weighted = objectives.with_reward_weights(PLAIN, reward, beta=2.0, baseline=1.5)
    networks = {"model": lambda x, t, c: 0.3 * x}
    keys = jax.random.split(jax.random.key(1), 6)
    batch = {"x": x, "condition": jnp.full(6, 9), "data_condition": labels}  # dropped for the network alone
    losses, metrics = weighted(networks, FLOW, keys, batch, 0)
    plain, _ = PLAIN(networks, FLOW, keys, batch, 0)
    weight = np.exp((np.asarray(x)[:, 0] + np.arange(6) - 1.5) / 2)
    np.testing.assert_allclose(losses, weight * plain, rtol=1e-5)
    np.testing.assert_allclose(metrics["weight"], weight, rtol=1e-5)


def test_no_gradient_goes_through_the_weight():
    """Of examples that trained parameters make, as the latents of an encoder are: 0.3 x at theta = 1."""
    weighted = objectives.with_reward_weights(PLAIN, lambda x, condition: x[:, 0], beta=2.0)
    keys, x = jax.random.split(jax.random.key(1), 6), jax.random.normal(jax.random.key(0), (6, 3))
    networks = {"model": lambda x, t, c: 0.3 * x}
    total = lambda objective: jax.jacobian(lambda theta: objective(networks, FLOW, keys, {"x": theta * x}, 0)[0])(1.0)
    np.testing.assert_allclose(total(weighted), np.exp(np.asarray(x)[:, 0] / 2) * total(PLAIN), rtol=1e-5)


@pytest.mark.extended
def test_the_optimum_is_the_denoiser_of_the_tilted_data():
    """N(m, v) exp(r / beta) with r = g x - k x^2 / 2: precision 1 / v + k / beta. The best affine network is exact."""
    mean, variance, slope, curvature, beta = 0.3, 0.5, 0.9, 0.6, 0.7
    weighted = objectives.with_reward_weights(PLAIN, lambda x, c: (slope * x - curvature / 2 * x**2)[:, 0], beta)
    number = 2**17
    x = mean + variance**0.5 * jax.random.normal(jax.random.key(0), (number, 1))
    keys = jax.random.split(jax.random.key(1), number)

    def loss(theta):
        networks = {"model": lambda x, t, c: theta[0] * x + theta[1]}
        return weighted(networks, FLOW, keys, {"x": x}, 0)[0].mean()

    solve = jax.jit(lambda theta: theta - jnp.linalg.solve(jax.hessian(loss)(theta), jax.grad(loss)(theta)))
    tilted = 1 / (1 / variance + curvature / beta)
    tilted_mean = tilted * (mean / variance + slope / beta)
    alpha = 1 - AT
    gain = alpha * tilted / (alpha**2 * tilted + AT**2)
    np.testing.assert_allclose(solve(jnp.zeros(2)), [gain, (1 - gain * alpha) * tilted_mean], rtol=0.02)


def test_what_cannot_be_weighed_is_refused():
    """A reward of x sees the padding too, so that a mask of it is refused."""
    PLAIN.check_real()
    with pytest.raises(ValueError, match="a mask of padding, which this objective does not support"):
        objectives.with_reward_weights(PLAIN, objectives.near_value(0.0), 1.0).check_real()
    reward = objectives.near_value(0.0)
    with pytest.raises(ValueError, match="beta = 0 must be positive"):
        objectives.with_reward_weights(PLAIN, reward, 0)
    paired = objectives.flow_matching(timesteps.uniform_density(FLOW), couplings.optimal_transport(4))
    with pytest.raises(ValueError, match="compares examples with each other"):
        objectives.with_reward_weights(paired, reward, 1.0)
    weighted = objectives.with_reward_weights(PLAIN, lambda x, c: jnp.where(jnp.arange(4) == 3, jnp.inf, 0.0), 1.0)
    keys = jax.random.split(jax.random.key(0), 4)
    with pytest.raises(ValueError, match=r"the reward of example 3 is inf\. Valid: finite rewards"):
        weighted({"model": lambda x, t, c: x}, FLOW, keys, {"x": jnp.zeros((4, 1))}, 0)


def test_a_weighted_objective_needs_pictures_and_what_the_reward_reads_beside_them():
    plain = objectives.flow_matching(timesteps.uniform_density(schedules.rectified_flow()))
    assert not plain.beside.pictures
    assert objectives.with_reward_weights(plain, objectives.near_value(0.3), 1.0).beside.pictures
