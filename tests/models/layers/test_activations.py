"""GELU with its own derivative in bfloat16, beside JAX's, both against float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from diffusion.models.layers.activations import gelu

X = jnp.linspace(-8, 8, 4001).astype(jnp.bfloat16)


def reference(x):
    """gelu and its derivative in float64, with the logistic function alone."""
    x = np.asarray(x, np.float64)
    s = expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return x * s, s + 2 * x * s * (1 - s) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)


def slopes(function):
    return np.asarray(jax.grad(lambda x: function(x).astype(jnp.float32).sum())(X), np.float64)


@pytest.mark.extended
def test_value_and_derivative_in_bfloat16_are_rounded_once():
    value, slope = reference(X)
    np.testing.assert_allclose(np.asarray(gelu(X), np.float64), value, rtol=2**-8, atol=1e-6)
    np.testing.assert_allclose(slopes(gelu), slope, rtol=2**-8, atol=1e-6)


@pytest.mark.extended
def test_the_derivative_is_nearer_to_float64_than_jaxs():
    slope = reference(X)[1]
    error = lambda function: np.sqrt(np.mean((slopes(function) - slope) ** 2))
    assert error(gelu) < 0.5 * error(nn.gelu)


def test_forward_and_reverse_mode_agree():
    _, tangent = jax.jvp(gelu, (X,), (jnp.ones_like(X),))
    np.testing.assert_array_equal(np.asarray(tangent, np.float64), slopes(gelu))


def test_float32_is_flaxs():
    x = X.astype(jnp.float32)
    same = lambda function: jax.make_jaxpr(jax.grad(lambda x: function(x).sum()))(x)
    assert str(same(gelu)) == str(same(nn.gelu))


def test_the_backward_pass_receives_one_array():
    kept = lambda function: jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(function, x)[1], X))
    assert [leaf.dtype for leaf in kept(gelu) if leaf.shape == X.shape] == [jnp.bfloat16]
    assert sum(leaf.shape == X.shape for leaf in kept(nn.gelu)) > 1
