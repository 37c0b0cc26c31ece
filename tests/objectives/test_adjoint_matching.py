"""Adjoint matching beside exact references: its optimum is the tilted distribution, of Gaussians and mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, samplers, schedules, weightings
from diffusion.objectives.rollouts import rollouts
from tests import oracles

FLOW = schedules.rectified_flow()
X0, V = parameterizations.x0(), parameterizations.velocity()
MIXTURE = oracles.mixture([0.6, 0.4], [[-0.8], [0.9]], [[[0.15]], [[0.3]]])


def trained(data, reward, beta, steps, bins, number, rounds):
    """Samples of the reference plus a table of shifts of x0 by (step, bin of x), each the minimum of its losses.

    A loss is a sum over the entries of the table, each with a parabola of its own: Newton's step is exact. The second
    half of the rounds is averaged.
    """
    grid = np.linspace(1, 0, steps + 1)
    made = objectives.adjoint_matching(X0, X0, weightings.constant(X0), grid, reward, beta)
    reference = lambda x, t, condition: oracles.mean_x0(data, 1 - t, t, x)

    def model(table):
        def apply(x, t, condition):
            i = jnp.round((1 - t) * steps).astype(int)
            place = jnp.clip((x[:, 0] / 3 + 1) / 2 * bins, 0, bins - 1).astype(int)
            return reference(x, t, condition) + table[i, place][:, None]

        return apply

    @jax.jit
    def improved(table, key):
        def loss(table):
            networks = {"model": model(table), "teacher": reference}
            keys = jax.random.split(key, number)
            return made(networks, FLOW, keys, {"x": jnp.zeros((number, 1))}, 0)[0].mean()

        slope, curvature = jax.jvp(jax.grad(loss), (table,), (jnp.ones_like(table),))
        return table - jnp.where(curvature > 0, slope / jnp.where(curvature > 0, curvature, 1), 0)

    table, kept = jnp.zeros((steps, bins)), []
    for k in range(rounds):
        table = improved(table, jax.random.key(k))
        kept.append(table)
    table = sum(kept[rounds // 2 :]) / len(kept[rounds // 2 :])
    # Ancestral sampling by itself narrows a variance by some per cent in so many steps.
    draw = lambda keys: rollouts(model(table), FLOW, X0, grid, samplers.heun(), keys, (1,))[-1]
    return np.asarray(jax.jit(draw)(jax.random.split(jax.random.key(99), 4 * number)))


def moments(data, log_weight):
    """Mean and variance of p(x) exp(log_weight(x)), by a sum over a fine grid."""
    x = np.linspace(-6, 6, 4001)
    density = sum(
        w * np.exp(-((x - m[0]) ** 2) / (2 * v[0])) / v[0] ** 0.5
        for w, m, v in zip(data.weights, data.means, data.variances)
    ) * np.exp(log_weight(x))
    density /= density.sum()
    mean = (density * x).sum()
    return mean, (density * (x - mean) ** 2).sum()


@pytest.mark.parametrize(
    "schedule, read", [(FLOW, V), pytest.param(schedules.cosine(), X0, marks=pytest.mark.extended)]
)
def test_the_loss_on_a_gaussian_with_a_linear_reward_is_a_closed_form(schedule, read):
    """The adjoint is -g (dx_0 / dx_t) / beta, with dx_0 / dx_t = Cov(x_0, x_t) / Var x_t.

    So the model's x0 is to be the reference's and sigma^2 S g / (alpha^2 S + sigma^2) / beta; at t = 1 this at s.
    """
    mean, variance, slope, beta, shift = 0.4, 0.6, 0.8, 0.5, 0.3
    grid = np.array([1.0, 0.7, 0.4, 0.2, 0.0])
    made = objectives.adjoint_matching(
        read, X0, lambda schedule, t: 1 + t, grid, lambda x, c: slope * x[:, 0] + c, beta
    )

    def reference(x, t, c):
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)

    def model(x, t, c):
        x0 = reference(x, t, c) + shift
        return x0 if read is X0 else (x - x0) / t[:, None]  # x0 = x - t v

    networks = {"model": model, "teacher": reference}
    batch = {"x": jnp.zeros((5, 1)), "condition": jnp.arange(5.0)}
    losses, metrics = made(networks, schedule, jax.random.split(jax.random.key(0), 5), batch, 0)
    at = np.array([0.7, 0.7, 0.4, 0.2])
    alpha, sigma = np.asarray(schedule.alpha(at), np.float64), np.asarray(schedule.sigma(at), np.float64)
    wanted = sigma**2 * variance * slope / beta / (alpha**2 * variance + sigma**2)
    np.testing.assert_allclose(losses, ((1 + grid[:-1]) * (shift - wanted) ** 2).mean(), rtol=1e-4)
    x = (np.asarray(metrics["reward"]) - np.arange(5)) / slope
    assert len(np.unique(x)) == 5 and np.abs(x).max() < 4


def test_the_adjoint_is_carried_back_by_the_transposed_derivative_from_the_reward_at_the_sample():
    """x0_ref = M x with M not symmetric, so that a_t = (k 1 + l M)^T a_s for the step's mean k x_t + l x0."""
    M, shift, beta, grid = (
        np.array([[0.4, -0.9], [0.3, 0.2]]),
        np.array([0.3, -0.2]),
        0.7,
        np.array([1.0, 0.6, 0.3, 0.0]),
    )
    seen = []
    reward = lambda x, c: seen.append(x) or jnp.sin(x[:, 0]) * x[:, 1]
    made = objectives.adjoint_matching(X0, X0, lambda schedule, t: 1 + t, grid, reward, beta)
    reference = lambda x, t, c: x @ jnp.float32(M.T)
    networks = {"model": lambda x, t, c: reference(x, t, c) + jnp.float32(shift), "teacher": reference}
    losses, _ = made(networks, FLOW, jax.random.split(jax.random.key(0), 5), {"x": jnp.zeros((5, 2))}, 0)
    x = np.asarray(seen[0], np.float64)
    adjoint = -np.stack([np.cos(x[:, 0]) * x[:, 1], np.sin(x[:, 0])], 1) / beta
    total = 0
    for t, s in zip(grid[-2::-1], grid[:0:-1]):
        ratio = ((1 - t) * s / ((1 - s) * t)) ** 2
        after, adjoint = adjoint, adjoint @ ((1 - t) * s**2 / ((1 - s) * t**2) * np.eye(2) + (1 - s) * (1 - ratio) * M)
        moved = s**2 / (1 - s) * after if t == 1 else t**2 / (1 - t) * adjoint
        total = total + (1 + t) * ((shift + moved) ** 2).mean(1)
    np.testing.assert_allclose(losses, total / 3, rtol=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="beta = 0 must be positive"):
        objectives.adjoint_matching(X0, X0, weightings.constant(X0), (1.0, 0.0), objectives.near_value(0.0), 0)
    reward = lambda x, condition: jnp.where(jnp.arange(4) == 1, jnp.nan, x[:, 0])
    made = objectives.adjoint_matching(X0, X0, weightings.constant(X0), (1.0, 0.5, 0.0), reward, 1.0)
    networks = dict.fromkeys(("model", "teacher"), lambda x, t, c: 0.5 * x)
    with pytest.raises(ValueError, match=r"the reward of example 1 is nan\. Valid: finite rewards"):
        made(networks, FLOW, jax.random.split(jax.random.key(0), 4), {"x": jnp.zeros((4, 1))}, 0)


@pytest.mark.slow
@pytest.mark.parametrize("slope, curvature", [(0.5, 0.0), (0.3, 0.8)])
def test_the_optimum_of_a_mixture_is_the_tilted_one(slope, curvature):
    """Mean and variance to 2 %: of the mean, in units of the standard deviation."""
    beta = 0.7
    reward = lambda x, condition: (slope * x - curvature / 2 * x**2)[:, 0]
    samples = trained(MIXTURE, reward, beta, steps=100, bins=48, number=2**14, rounds=8)
    mean, variance = moments(MIXTURE, lambda x: (slope * x - curvature / 2 * x**2) / beta)
    before = moments(MIXTURE, lambda x: 0 * x)
    assert abs(before[0] - mean) > 0.2 * variance**0.5
    assert abs(samples.mean() - mean) < 0.02 * variance**0.5
    assert abs(samples.var() - variance) < 0.02 * variance
