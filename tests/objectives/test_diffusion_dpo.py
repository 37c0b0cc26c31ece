"""Diffusion-DPO: the loss by hand, and the reward that exact denoisers of two Gaussians imply."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps, weightings
from tests import oracles

FLOW, COSINE = schedules.rectified_flow(), schedules.cosine()
V, X0 = parameterizations.velocity(), parameterizations.x0()
KEYS = jax.random.split(jax.random.key(0), 6)


def test_the_loss_is_the_papers_for_both_parameterizations():
    """Of networks that put out constants: the errors of x0 and of the velocity are known from t and the noise."""
    x_w, x_l = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    seen = []

    def model(x, clock, condition):
        seen.append((np.asarray(x), np.asarray(clock)))
        return jnp.full_like(x, 0.3)

    objective = objectives.diffusion_dpo(
        X0, V, lambda schedule, t: 2 + t, timesteps.uniform_density(FLOW, t_min=0.1), beta=0.7
    )
    networks = {"model": model, "teacher": lambda x, clock, condition: jnp.full_like(x, -0.2)}
    losses, metrics = objective(networks, FLOW, KEYS, {"x": jnp.asarray(x_w), "rejected": jnp.asarray(x_l)}, 0)
    (x_wt, t), (x_lt, other) = seen
    np.testing.assert_array_equal(t, other)
    noise = (x_wt - (1 - t[:, None]) * x_w) / t[:, None]
    np.testing.assert_allclose(x_lt, (1 - t[:, None]) * x_l + t[:, None] * noise, atol=1e-6)
    rewards = []
    for x_0 in (x_w, x_l):
        error = ((0.3 - x_0) ** 2).sum(1)
        reference = t**2 * ((-0.2 - (noise - x_0)) ** 2).sum(1)  # x0 = x_t - t v
        rewards.append(0.7 * (2 + t) * (reference - error))
    margin = rewards[0] - rewards[1]
    np.testing.assert_allclose(metrics["margin"], margin, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(losses, np.log1p(np.exp(-margin)), rtol=1e-4)


def test_both_errors_have_the_importance_of_their_time():
    """The margin is linear in the errors, so that an importance of 3 triples it."""
    drawn = timesteps.uniform_density(FLOW, t_min=0.1)
    thrice = drawn._replace(sample=lambda *draws: (drawn.sample(*draws)[0], jnp.full(6, 3.0)))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)), jnp.float32)
    networks = {"model": lambda x, t, c: 0.3 * x, "teacher": lambda x, t, c: -0.2 * x}
    once, tripled = (
        objectives.diffusion_dpo(X0, V, weightings.snr(), density, 0.7)(
            networks, FLOW, KEYS, {"x": x, "rejected": x[::-1]}, 0
        )[1]["margin"]
        for density in (drawn, thrice)
    )
    np.testing.assert_allclose(tripled, 3 * once, rtol=1e-5)
    assert (np.abs(once) > 0).all()


def towards_the_data(power):
    """t = u^power, weighed so that means over it are those over a uniform t."""
    sample = lambda state, keys, index: (
        (t := jax.vmap(jax.random.uniform)(keys) ** power),
        power * t ** (1 - 1 / power),
    )
    return timesteps.Density(lambda: None, sample, lambda state, t, losses: state)


@pytest.mark.extended
@pytest.mark.parametrize("power", [1, 1.5])
def test_exact_denoisers_imply_the_reward_that_tilts_one_gaussian_into_the_other(power):
    """p = N(0.4, 0.5) exp(r / beta) / Z with r = beta (0.8 x - 0.7 x^2): a Gaussian of precision 1/0.5 + 1.4."""
    beta, mean, variance, slope, curvature = 0.3, 0.4, 0.5, 0.8, 1.4
    tilted = 1 / (1 / variance + curvature)
    reference = oracles.gaussian([mean], [[variance]])
    data = oracles.gaussian([tilted * (mean / variance + slope)], [[tilted]])
    likelihood = lambda schedule, t: (1 - t) / t**3  # SNR = (1 - t)^2 / t^2
    objective = objectives.diffusion_dpo(V, V, likelihood, towards_the_data(power), beta)
    velocity = lambda data, x, t: oracles.mean_eps(data, 1 - t, t, x) - oracles.mean_x0(data, 1 - t, t, x)
    exact = lambda data: lambda x, t, condition: velocity(data, x, t)
    x_w, x_l = 1.1, -0.6
    number = 2**16
    batch = {"x": jnp.full((number, 1), x_w), "rejected": jnp.full((number, 1), x_l)}
    keys = jax.random.split(jax.random.key(1), number)
    networks = {"model": exact(data), "teacher": exact(reference)}
    margin = jax.jit(lambda keys: objective(networks, FLOW, keys, batch, 0)[1]["margin"])(keys)
    reward = lambda x: beta * (slope * x - curvature / 2 * x**2)
    error = margin.std() / number**0.5
    assert error < 0.01
    np.testing.assert_allclose(margin.mean(), reward(x_w) - reward(x_l), atol=4.5 * error)


def test_training_learns_the_side_that_was_preferred():
    """Data at -1 and 1, of which 1 is preferred: the model moves its estimate to that side of the reference's."""
    objective = objectives.diffusion_dpo(
        X0, X0, weightings.constant(X0), timesteps.uniform_density(COSINE, t_min=0.05), beta=1.0
    )
    batch = {"x": jnp.ones((6, 1)), "rejected": -jnp.ones((6, 1))}
    value = lambda theta: objective(
        {"model": lambda x, t, c: theta + 0 * x, "teacher": lambda x, t, c: 0 * x}, COSINE, KEYS, batch, 0
    )[0].mean()
    assert jax.grad(value)(0.0) == pytest.approx(-0.5 * 4, rel=1e-5)  # -sigmoid(0) beta (2 - -2)


def test_what_is_no_pair_is_refused():
    objective = objectives.diffusion_dpo(X0, X0, weightings.constant(X0), timesteps.uniform_density(COSINE), 1.0)
    networks = dict.fromkeys(("model", "teacher"), lambda x, t, c: x)
    with pytest.raises(ValueError, match='preference: the batch needs the entry "rejected"'):
        objective(networks, COSINE, KEYS, {"x": jnp.zeros((6, 3))}, 0)
    with pytest.raises(ValueError, match=r'"rejected".*which is paired with x'):
        objective(networks, COSINE, KEYS, {"x": jnp.zeros((6, 3)), "rejected": jnp.zeros((6, 1))}, 0)
    with pytest.raises(ValueError, match="beta = 0 must be positive"):
        objectives.diffusion_dpo(X0, X0, weightings.constant(X0), timesteps.uniform_density(COSINE), 0)
    with pytest.raises(ValueError, match="examples of a pair would be augmented with different draws"):
        objectives.with_augmentation(objective, objectives.Augmentation(lambda key, x: (x, x), 9))
