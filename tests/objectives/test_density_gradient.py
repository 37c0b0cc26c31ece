"""Networks that receive the gradient of a density: of a Gaussian it is all that they need to know of its mean."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import models, objectives, parameterizations, schedules
from diffusion.objectives.unnormalised_targets import Target

FLOW, X0 = schedules.rectified_flow(), parameterizations.x0()
STD, SIZE = 0.7, 2


def target(mean):
    return Target(lambda x: 0.2 - jnp.sum((x - mean) ** 2, -1) / (2 * STD**2), (SIZE,))


def gain(t):
    return (1 - t) * STD**2 / ((1 - t) ** 2 * STD**2 + t**2)


def reach(t):
    """B of the denoiser m + gain (x - alpha m) = (gain + B / s^2) x + B g, where g = (m - x) / s^2."""
    return STD**2 * (1 - gain(t) * (1 - t))


@pytest.mark.parametrize("mean", [-0.4, 1.3])
def test_the_gradient_tells_one_network_the_mean_of_any_gaussian(mean):
    """With the closed forms of network and gate, which hold no mean, the paths' weights are equal."""
    plain = lambda x, t, condition: (gain(t) + reach(t) / STD**2)[:, None] * x
    network = objectives.with_density_gradient(plain, target(mean).log_density, reach)
    made = objectives.log_variance(X0, [1.0, 0.6, 0.25, 0.0], target(mean), 2, STD)
    keys = jax.random.split(jax.random.key(0), 6)
    losses, metrics = made({"model": network}, FLOW, keys, {"x": jnp.zeros((6, SIZE))}, 0)
    np.testing.assert_allclose(losses, 0, atol=1e-6)
    np.testing.assert_allclose(metrics["log_weight"], 0.2 + SIZE / 2 * np.log(2 * np.pi * STD**2), atol=1e-4)


def test_the_vector_is_the_gradient_within_its_limit_and_labels_stay():
    seen = {}

    def network(x, t, condition):
        seen.update(condition)
        return x

    x = jnp.array([[1.0, 300.0], [-200.0, 0.5]])
    log_density = lambda x: -jnp.sum(x**2, -1) / 2
    informed = objectives.with_density_gradient(network, log_density, limit=3.0)
    np.testing.assert_array_equal(informed(x, jnp.ones(2), jnp.array([4, 5])), x)
    np.testing.assert_array_equal(seen["vector"], [[-1, -3], [3, -0.5]])
    np.testing.assert_array_equal(seen["label"], [4, 5])
    gated = objectives.with_density_gradient(network, log_density, lambda t: 10 * t, limit=3.0)
    np.testing.assert_allclose(gated(x, jnp.array([0.1, 1.0])), x + np.array([[-1, -3], [30, -5]]))


def test_no_derivative_passes_through_the_vector():
    """Of the sum of x + 10 g with g = -x a derivative through g would be -9."""
    informed = objectives.with_density_gradient(lambda x, t, c: x, lambda x: -jnp.sum(x**2, -1) / 2, lambda t: 10 * t)
    slope = jax.grad(lambda x: informed(x, jnp.ones(2)).sum())(jnp.array([[1.0, 0.3], [-2.0, 0.5]]))
    np.testing.assert_array_equal(slope, 1)


class Informed(nn.Module):
    """A network of the library that receives the gradient, as a config names one."""

    @nn.compact
    def __call__(self, x, t, condition=None):
        mlp = models.MLP(width=8, depth=1, vector_width=3, name="mlp")
        return objectives.with_density_gradient(mlp, lambda x: jnp.sum(x**2, -1))(x, t, condition)


@pytest.mark.extended
def test_a_network_of_the_library_receives_it():
    x, t, keys = jnp.array([[1.0, 2.0, 3.0], [-1.0, 0.0, 5.0]]), jnp.ones(2), jax.random.split(jax.random.key(0))
    params = Informed().init(keys[0], x, t)
    random = lambda leaf: jax.random.normal(keys[1], leaf.shape)  # its last layer is zero at first
    params = jax.tree.map(random, params)
    mlp = models.MLP(width=8, depth=1, vector_width=3)
    plain = lambda vector: mlp.apply({"params": params["params"]["mlp"]}, x, t, {"vector": vector})
    output = Informed().apply(params, x, t)
    np.testing.assert_allclose(output, plain(2 * x), rtol=1e-5)
    assert np.abs(output - plain(x)).max() > 1e-2


def test_what_is_no_density_is_refused():
    network = lambda x, t, condition: x
    with pytest.raises(ValueError, match="limit = 0 must be positive"):
        objectives.with_density_gradient(network, target(0.0).log_density, limit=0)
    with pytest.raises(ValueError, match="the log-densities, one number for each sample,"):
        objectives.with_density_gradient(network, lambda x: x)(jnp.ones((2, 3)), jnp.ones(2))
