"""Convolutions of volumes by planes are XLA's convolutions of volumes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.layers.volumes import by_planes

RNG = np.random.default_rng(0)
X, K = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((2, 4, 3, 5, 2), (3, 3, 3, 2, 3)))
AXES = jax.lax.ConvDimensionNumbers((0, 4, 1, 2, 3), (4, 3, 0, 1, 2), (0, 4, 1, 2, 3))


@pytest.mark.extended
@pytest.mark.parametrize(
    "stride, padding", [(1, ((1, 1), (1, 1), (1, 1))), (1, ((0, 2), (1, 0), (0, 0))), (2, ((1, 1),) * 3)]
)
def test_it_is_the_convolution_of_volumes_with_its_derivatives(stride, padding):
    of = lambda convolve: lambda x, k: convolve(x, k, (stride,) * 3, padding, dimension_numbers=AXES)
    loss = lambda convolve: lambda x, k: jnp.sum(jnp.sin(of(convolve)(x, k)))
    ours, xlas = (jax.jit(jax.value_and_grad(loss(c), (0, 1))) for c in (by_planes, jax.lax.conv_general_dilated))
    assert of(by_planes)(X, K).shape == of(jax.lax.conv_general_dilated)(X, K).shape
    for found, expected in zip(jax.tree.leaves(ours(X, K)), jax.tree.leaves(xlas(X, K))):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
