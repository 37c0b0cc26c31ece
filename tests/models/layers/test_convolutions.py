"""The group norm of the convolutional networks beside its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.layers.convolutions import GroupNorm


def by_definition(x, scale, bias, groups, epsilon):
    """Wu & He (2018), equation 7: one mean and one variance over the pixels and channels of each group."""
    parts = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean = parts.mean((1, 3), keepdims=True)
    variance = parts.var((1, 3), keepdims=True)
    return ((parts - mean) / jnp.sqrt(variance + epsilon)).reshape(x.shape) * scale + bias


@pytest.mark.extended
@pytest.mark.parametrize("groups, least, effective", [(4, 1, 4), (8, 4, 3)])
def test_group_norm_value_and_both_derivatives(groups, least, effective):
    with jax.enable_x64(True):
        x, direction = 5.0 + jax.random.normal(jax.random.key(0), (2, 2, 3, 5, 12), jnp.float64)
        scale, bias = jax.random.normal(jax.random.key(1), (2, 12), jnp.float64)
        module = GroupNorm(groups, 1e-3, least)

        ours = lambda x, scale, bias: module.apply({"params": {"scale": scale, "bias": bias}}, x)
        theirs = lambda x, scale, bias: by_definition(x, scale, bias, effective, 1e-3)

        @functools.partial(jax.jit, static_argnums=0)
        def derived(f, x, scale, bias):
            gradient = jax.grad(lambda *a: jnp.sin(f(*a)).sum(), (0, 1, 2))(x, scale, bias)
            return gradient, jax.jvp(f, (x, scale, bias), (direction, bias, scale))

        for a, b in zip(*(jax.tree.leaves(derived(f, x, scale, bias)) for f in (ours, theirs)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
