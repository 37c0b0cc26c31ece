"""Layers on bfloat16 whose sums are computed in float32: their outputs are the exact ones, rounded once."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.autoencoders import causal_layers, deep_compression
from diffusion.models.layers import convolutions, magnitude, norms
from diffusion.models.layers.linear_attention import linear_attention

X = jnp.asarray(np.random.default_rng(0).normal(0.5, size=(2, 3, 3, 64)), jnp.bfloat16)
WIDE = np.asarray(X, np.float64)
ONE, ZERO = jnp.ones(64), jnp.zeros(64)


def over(axes, *, centred=False):
    """The numbers over the root of their mean square along these axes, after their mean is subtracted or not."""
    wide = WIDE - WIDE.mean(axes, keepdims=True) if centred else WIDE
    return wide / np.sqrt((wide**2).mean(axes, keepdims=True))


def applied(module, **params):
    return lambda: module.apply({"params": params}, X)


LAYERS = {  # name: (the layer's output, the exact one)
    "layer_norm": (lambda: norms.layer_norm(X), over(-1, centred=True)),
    "rms_norm": (lambda: norms.rms_norm(X), over(-1)),
    "unit": (lambda: magnitude.unit(X, (-1,)), over(-1)),
    "ChannelNorm": (applied(causal_layers.ChannelNorm(), scale=ONE), over(-1)),
    "RmsNorm": (applied(deep_compression.RmsNorm(), scale=ONE, bias=ZERO), over(-1)),
    "GroupNorm": (applied(convolutions.GroupNorm(1), scale=ONE, bias=ZERO), over((1, 2, 3), centred=True)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_norm_rounds_once(name):
    layer, exact = LAYERS[name]
    out = layer()
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=2.0**-8 + 3e-4, atol=1e-6)


def test_linear_attention_sums_in_float32():
    q, k, v = (X.reshape(2, 9, 2, 32)[:, i::3] for i in range(3))
    wide = [np.asarray(a, np.float64) for a in (q, k, v)]
    weights = np.einsum("bnhd,bmhd->bhnm", np.maximum(wide[0], 0), np.maximum(wide[1], 0))
    exact = np.einsum("bhnm,bmhd->bnhd", weights / weights.sum(-1, keepdims=True), wide[2])
    np.testing.assert_allclose(linear_attention(q, k, v), exact, rtol=1e-4, atol=1e-5)
