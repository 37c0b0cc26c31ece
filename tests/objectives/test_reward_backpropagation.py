"""Reward backpropagation through networks whose samples are products of known factors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, samplers, schedules

SCHEDULE = schedules.cosine()
X0 = parameterizations.x0()
GRID = (1.0, 0.7, 0.4, 0.0)
KEYS = jax.random.split(jax.random.key(0), 4)
BATCH = {"x": jnp.zeros((4, 3)), "condition": jnp.arange(4)}


def _total(theta, last, reward, sampler=None):
    objective = objectives.reward_backpropagation(X0, GRID, reward, last, sampler)
    network = lambda x, clock, condition: theta * x
    losses, metrics = objective({"model": network}, SCHEDULE, KEYS, BATCH, 0)
    return losses.sum(), (losses, metrics)


@pytest.mark.extended
@pytest.mark.parametrize("last", [1, 2, 3])
def test_the_gradient_goes_back_through_the_last_steps_alone(last):
    """x0 = theta x_t: DDIM multiplies x by c(theta) = alpha_s theta + sigma_s (1 - alpha_t theta) / sigma_t."""
    theta, reward = 0.8, lambda x, condition: x.sum(-1)
    factors, slopes = [], []
    for t, s in itertools.pairwise(GRID):
        alpha_t, sigma_t, alpha_s, sigma_s = (
            float(f(jnp.float32(time))) for time in (t, s) for f in (SCHEDULE.alpha, SCHEDULE.sigma)
        )
        slopes.append(alpha_s - sigma_s * alpha_t / sigma_t)
        factors.append(sigma_s / sigma_t + slopes[-1] * theta)
    with_gradient = range(3 - last, 3)
    slope = sum(slopes[i] * np.prod([c for k, c in enumerate(factors) if k != i]) for i in with_gradient)
    gradient, (losses, metrics) = jax.grad(_total, has_aux=True)(theta, last, reward)
    start = -losses.sum() / np.prod(factors)  # of all numbers of the noise
    np.testing.assert_allclose(gradient, -slope * start, rtol=1e-4)
    np.testing.assert_array_equal(metrics["reward"], -losses)
    np.testing.assert_allclose(metrics["t"], GRID[3 - last], rtol=1e-6)


def test_the_sample_is_that_of_all_steps_however_many_have_a_gradient():
    losses, metrics = zip(*(_total(0.8, last, lambda x, condition: x.sum(-1))[1] for last in (1, 2, 3)))
    np.testing.assert_allclose([row["t"][0] for row in metrics], GRID[2::-1], rtol=1e-6)  # where the gradient begins
    np.testing.assert_allclose(losses[:2], [losses[2]] * 2, rtol=1e-5)


def test_the_noise_is_the_priors_and_each_example_has_its_own():
    keys = jax.random.split(jax.random.key(1), 4096)
    objective = objectives.reward_backpropagation(X0, (1.0, 0.0), lambda x, condition: x[:, 0])
    networks = {"model": lambda x, clock, condition: x}
    losses, _ = objective(networks, SCHEDULE, keys, {"x": jnp.zeros((4096, 2))}, 0)
    np.testing.assert_allclose([losses.mean(), losses.var()], [0, 1], atol=4.5 * (2 / 4096) ** 0.5)
    assert len(np.unique(losses)) > 4000


@pytest.mark.extended
def test_a_stochastic_sampler_draws_other_noise_than_the_start():
    """Of x0 = x_T the middle is alpha x_T + sigma z, which is x_0: of variance 1 where z is not x_T, else near 2."""
    keys = jax.random.split(jax.random.key(1), 4096)
    objective = objectives.reward_backpropagation(X0, (1.0, 0.5, 0.0), lambda x, condition: x[:, 0], 1, samplers.ddpm())
    losses, _ = objective({"model": lambda x, t, c: x}, SCHEDULE, keys, {"x": jnp.zeros((4096, 2))}, 0)
    np.testing.assert_allclose(losses.var(), 1, atol=4.5 * (2 / 4096) ** 0.5)


def test_network_and_reward_see_the_condition_of_examples_of_any_rank():
    """x0 = c is the sample, whose reward c sum(x) is 6 c^2 for the six numbers of an example."""
    objective = objectives.reward_backpropagation(X0, GRID, lambda x, condition: condition * x.sum((1, 2)))
    network = lambda x, clock, condition: jnp.broadcast_to(condition[:, None, None].astype(x.dtype), x.shape)
    losses, _ = objective({"model": network}, SCHEDULE, KEYS, BATCH | {"x": jnp.zeros((4, 2, 3))}, 0)
    np.testing.assert_allclose(losses, [0, -6, -24, -54], rtol=1e-5)


def test_training_raises_the_reward():
    objective = objectives.reward_backpropagation(X0, GRID, objectives.near_value(0.5), 2)
    value = lambda theta: objective({"model": lambda x, t, c: theta + 0 * x}, SCHEDULE, KEYS, BATCH, 0)[0].mean()
    theta = -1.0
    slope = jax.jit(jax.grad(value))
    for _ in range(100):
        theta -= 0.3 * slope(theta)
    np.testing.assert_allclose(theta, 0.5, atol=1e-3)  # x_0 = theta: the best is the value itself


def test_a_reward_of_a_value_is_the_negative_mean_square():
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
    colour = [0.2, -0.5, 1.0]
    np.testing.assert_allclose(
        objectives.near_value(colour)(jnp.asarray(x), None), -((x - np.float32(colour)) ** 2).mean((1, 2, 3)), rtol=1e-5
    )


def test_what_is_out_of_range_is_refused():
    for last in (0, 4):
        with pytest.raises(ValueError, match=f"last = {last}, but the grid has 3 steps. Valid: 1 to 3"):
            objectives.reward_backpropagation(X0, GRID, objectives.near_value(0.0), last)
    with pytest.raises(ValueError, match="one number for each example"):
        _total(0.5, 1, lambda x, condition: x)
