"""What a ControlNet adds after a layer reaches the tokens of examples that skip the layer.

diffusers adds the residuals outside of the layer, in a line of its own after the branch on `skip_layers` (SD3's
transformer) and after the call that `LayerSkipConfig` hooks (PixArt's and Flux's).
"""

import jax
import numpy as np
import pytest

from diffusion.models.layers.pixart_block import PixArtBlock
from diffusion.models.u_vit import UViTBlock

B, N, D = 2, 3, 8


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


X, RESIDUAL = normal(0, B, N, D), normal(1, B, N, D)
INPUTS = {"skip": np.array([True, False]), "residual": RESIDUAL}
CALLS = {
    "pixart": (PixArtBlock(2, 2.0, "xla", "float32"), (X, normal(2, B, 6, D), normal(3, B, 4, D), None, INPUTS)),
    "u_vit": (UViTBlock(2, 2.0, False, "xla", "float32"), (X, normal(2, B, N, D), INPUTS)),
}


@pytest.mark.parametrize("name", ["u_vit", pytest.param("pixart", marks=pytest.mark.extended)])
def test_the_residual_is_added_after_a_skipped_layer(name):
    layer, inputs = CALLS[name]
    shapes = jax.eval_shape(layer.init, jax.random.key(0), *inputs)
    variables = jax.tree.map(lambda leaf: normal(4, *leaf.shape), shapes)
    out, _ = jax.jit(layer.apply)(variables, *inputs)
    np.testing.assert_array_equal(out[0], X[0] + RESIDUAL[0])
    assert np.abs(out[1] - X[1] - RESIDUAL[1]).max() > 1e-3  # the other example does not skip the layer
