"""Log-variance on a Gaussian target, whose reverse steps are Gaussians: its loss, bound and gradient in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules
from diffusion.objectives.unnormalised_targets import Target

FLOW, X0, V = schedules.rectified_flow(), parameterizations.x0(), parameterizations.velocity()
MEAN, STD, SIZE = -0.4, 0.7, 2
TARGET = Target(lambda x: 0.2 - jnp.sum((x - MEAN) ** 2, -1) / (2 * STD**2), (SIZE,))
LOG_NORMALISER = 0.2 + SIZE / 2 * np.log(2 * np.pi * STD**2)
GRID = np.array([1.0, 0.6, 0.25, 0.0])


def exact(x, t, shift, schedule=FLOW):
    """x0 of the exact denoiser, and a shift."""
    alpha, sigma = (level(t)[:, None] for level in (schedule.alpha, schedule.sigma))
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN) + shift


def test_loss_bound_and_gradient_of_a_shifted_denoiser_are_closed_forms():
    """With a shift e of x0, log w = log Z - sum_i (e c_i z_i + e^2 c_i^2 / 2), c_i the weight of x0 in a mean over the
    deviation of its step: the variance is D e^2 S with S = sum c_i^2, and the gradient is 2 D e S."""
    t, s = GRID[:-1], GRID[1:]
    lost = 1 - ((1 - t) * s / ((1 - s) * t)) ** 2
    weight = (1 - s) * lost
    width = STD**2 * t**2 / ((1 - t) ** 2 * STD**2 + t**2)
    S = (weight**2 / (s**2 * lost + weight**2 * width)).sum()
    shift, group, number = 0.3, 4, 2**15
    made = objectives.log_variance(V, GRID, TARGET, group, STD)

    @jax.jit
    def run(shift):
        network = lambda x, t, c: (x - exact(x, t, shift)) / t[:, None]  # x0 = x - t v
        keys = jax.random.split(jax.random.key(0), number)
        losses, metrics = made({"model": network}, FLOW, keys, {"x": jnp.zeros((number, SIZE))}, 0)
        return losses, (losses, metrics["log_weight"])

    losses, slopes, (_, log_weights) = jax.jvp(run, (shift,), (1.0,), has_aux=True)
    log_weights = np.asarray(log_weights, np.float64)
    variance = SIZE * shift**2 * S
    for values, truth in (
        (losses, variance),
        (slopes, 2 * variance / shift),
        (log_weights - LOG_NORMALISER, -variance / 2),
    ):
        blocks = np.asarray(values, np.float64).reshape(-1, group).mean(1)
        error = blocks.std() / len(blocks) ** 0.5
        assert error < 0.03 * abs(truth)
        assert abs(blocks.mean() - truth) < 4.5 * error


@pytest.mark.parametrize("schedule", [FLOW, pytest.param(schedules.cosine(), marks=pytest.mark.extended)])
def test_the_loss_of_the_exact_denoiser_is_zero_and_so_is_its_gradient(schedule):
    made = objectives.log_variance(X0, GRID, TARGET, 2, STD)
    keys, batch = jax.random.split(jax.random.key(0), 6), {"x": jnp.zeros((6, SIZE))}

    def run(shift):
        return made({"model": lambda x, t, c: exact(x, t, shift, schedule)}, schedule, keys, batch, 0)[0]

    losses, slopes = jax.jvp(run, (0.0,), (1.0,))
    np.testing.assert_allclose(losses, 0, atol=1e-6)
    np.testing.assert_allclose(slopes, 0, atol=2e-3)


def test_groups_stand_alone():
    made = objectives.log_variance(X0, GRID, TARGET, 2, 1.0)
    keys = jax.random.split(jax.random.key(0), 6)
    batch = lambda keys: {"x": jnp.zeros((len(keys), SIZE))}
    run = jax.jit(lambda keys: made({"model": lambda x, t, c: 0.5 * x}, FLOW, keys, batch(keys), 0)[0])
    whole, other = run(keys), run(jnp.concatenate([keys[1:5], keys[4:]]))
    np.testing.assert_allclose(whole[4:], other[4:], rtol=1e-4)
    np.testing.assert_allclose(whole[4:], run(keys[4:]), rtol=1e-4)
    assert (whole[:4] != other[:4]).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="group = 1 must be at least 2"):
        objectives.log_variance(X0, GRID, TARGET, 1)
    with pytest.raises(ValueError, match="data_std = 0 positive"):
        objectives.log_variance(X0, GRID, TARGET, 2, 0)
    made = objectives.log_variance(X0, GRID, TARGET, 2)
    with pytest.raises(ValueError, match="the examples, like the target's samples,"):
        made({"model": lambda x, t, c: x}, FLOW, jax.random.split(jax.random.key(0), 2), {"x": jnp.zeros((2, 3))}, 0)
    with pytest.raises(ValueError, match="not a multiple of block = 2"):
        made({"model": lambda x, t, c: x}, FLOW, jax.random.split(jax.random.key(0), 3), {"x": jnp.zeros((3, SIZE))}, 0)
