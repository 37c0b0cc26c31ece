"""Score identity distillation: its gradient is that of a Fisher divergence, exactly, on Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives
from tests import oracles
from tests.objectives.few_step_cases import DATA, FLOW, PAIRS, V, as_v, exact_denoiser, gaussian_weights, keys_and_data
from tests.objectives.objective_cases import at

T = 0.6
ALPHA, SIGMA = float(FLOW.alpha(T)), float(FLOW.sigma(T))
THETA = {"A": jnp.array([[0.8, 0.2], [-0.1, 0.5]]), "b": jnp.array([0.3, -0.2])}


def affine(mean, covariance):
    """(R, r) with E[x | x_t] = R x_t + r for x of a Gaussian: R = alpha S C^-1."""
    R = ALPHA * covariance @ jnp.linalg.inv(ALPHA**2 * covariance + SIGMA**2 * jnp.eye(2))
    return R, mean - ALPHA * R @ mean


def moments(theta):
    return theta["b"], theta["A"] @ theta["A"].T


def delta_square(theta, teacher, fake):
    """E|x0_teacher(x_t) - x0_fake(x_t)|^2 / 2 for x_t of the generator theta: the mean over two numbers."""
    (R, r), (F, f) = teacher, fake
    mean, covariance = moments(theta)
    second = ALPHA**2 * covariance + SIGMA**2 * jnp.eye(2)
    apart = (R - F) @ (ALPHA * mean) + r - f
    return (jnp.trace((R - F) @ second @ (R - F).T) + apart @ apart) / 2


@pytest.mark.extended
@pytest.mark.parametrize("alpha", [0.5, 1.2])
def test_gradient_is_that_of_the_fisher_divergence(alpha, x64):
    """At alpha = 1/2 half of its gradient; each further alpha takes off the part with a fixed fake score.

    The divergence is differentiated with the generator's exact score, as it changes; the loss sees a fake network that
    does not.
    """
    B = 2 * PAIRS
    seen = {}

    def generator(theta):  # at t_max = 1 its x0 is minus its v
        def network(z, t, condition):
            jax.debug.callback(lambda z: seen.update(z=np.asarray(z)), z)
            return -(z @ theta["A"].T + theta["b"])

        return network

    def teacher(x, t, condition):
        jax.debug.callback(lambda x: seen.update(x_t=np.asarray(x)), x)
        return exact_denoiser(FLOW)(x, t, condition)

    exact_fake = exact_denoiser(FLOW, oracles.gaussian(THETA["b"], THETA["A"] @ THETA["A"].T))
    objective = objectives.score_identity(V, V, V, at(T), alpha, normalise=False)
    keys = jax.random.split(jax.random.key(0), B)
    players = {"teacher": teacher, "fake": exact_fake}
    run = lambda theta: objective({**players, "model": generator(theta)}, FLOW, keys, {"x": jnp.zeros((B, 2))}, 0)[0]
    jax.jit(run)(THETA)
    jax.effects_barrier()
    eps = (seen["x_t"] - ALPHA * (seen["z"] @ THETA["A"].T + THETA["b"])) / SIGMA
    weights = gaussian_weights(seen["z"], eps)
    found = jax.jit(jax.value_and_grad(lambda theta: (weights * run(theta)).sum()))(THETA)
    real = affine(DATA.means[0], jnp.asarray(oracles.covariance(DATA)))
    fixed = affine(*moments(THETA))

    def expected(theta):
        whole = delta_square(theta, real, affine(*moments(theta)))
        return whole / 2 - (alpha - 0.5) * delta_square(theta, real, fixed)

    value, slope = jax.jit(jax.value_and_grad(expected))(THETA)
    np.testing.assert_allclose(found[0], value, rtol=3e-6)
    for ours, theirs in zip(jax.tree.leaves(found[1]), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=3e-6)
        assert np.abs(ours).max() > 0.005


@pytest.mark.extended
def test_a_fake_score_that_agrees_with_the_teacher_leaves_the_generator_where_it_is(x64):
    keys, batch = keys_and_data()
    players = dict.fromkeys(("teacher", "fake"), exact_denoiser(FLOW))
    objective = objectives.score_identity(V, V, V, at(T))
    run = lambda b: objective({**players, "model": lambda z, t, c: -(z + b)}, FLOW, keys, batch, 0)[0]
    for found in jax.jit(lambda b: (run(b), jax.grad(lambda b: run(b).sum())(b)))(0.3):
        np.testing.assert_allclose(found, 0, atol=1e-12)


@pytest.mark.parametrize("adversarial", [0.0, 0.2])
def test_loss_is_normalised_by_the_distance_to_the_teachers_estimate(adversarial, x64):
    """delta = -1.5 everywhere, x is the data: -1.5 ((0.5 - x) + 1.8) / mean |x - 0.5|, the denominator held fixed.

    SiDA's term has the same denominator; here D = 0.7 everywhere.
    """
    constant = lambda value: as_v(FLOW, lambda t, x: jnp.full_like(x, value))
    keys, batch = keys_and_data()
    density = at(0.5)
    thrice = density._replace(sample=lambda *drawn: (density.sample(*drawn)[0], jnp.full(24, 3.0)))
    objective = objectives.score_identity(V, V, V, thrice, block=1 if adversarial else None, adversarial=adversarial)
    x = batch["x"]
    fake = lambda *inputs, features=(): (constant(2.0)(*inputs), (0 * x + 0.7,)) if features else constant(2.0)(*inputs)
    players = {"teacher": constant(0.5), "fake": fake}
    run = lambda x: objective({**players, "model": lambda z, t, c: -x}, FLOW, keys, batch, 0)[0]
    scale = np.abs(x - 0.5).mean(axis=1)
    fooled = adversarial * np.log1p(np.exp(-0.7))
    np.testing.assert_allclose(run(x), 3 * ((-1.5 * (0.5 - x + 1.8)).mean(1) + fooled) / scale, rtol=1e-6)
    slope = jax.grad(lambda x: run(x).sum())(x)
    np.testing.assert_allclose(slope, np.broadcast_to(3 * 0.75 / scale[:, None], x.shape), rtol=1e-6)
