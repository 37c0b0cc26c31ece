"""Stable Cascade's layers, its levels and the blocks of its autoencoder, written out in numpy."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.published.stable_cascade import network, paella
from diffusion.published.stable_cascade.network import CascadeLayer, StableCascade, time_features
from tests.models.dit_oracle import silu
from tests.published.equations import (
    applied,
    attention,
    close,
    dense,
    depthwise,
    exact_gelu,
    normal,
    normalised,
    one_layer,
    out_of_heads,
    patches,
)


def norm(x):
    return normalised(x, 1e-6)


def layer(p, x, times, tokens, skip=None):
    h = norm(depthwise(p["depthwise"], x, "constant"))
    h = h if skip is None else np.concatenate([h, skip], axis=-1)
    h = exact_gelu(dense(p["hidden"], h))
    length = np.sqrt((h**2).sum((0, 1)))
    h = h + p["response"]["scale"] * h * length / (length.mean() + 1e-6) + p["response"]["bias"]
    x = x + dense(p["out"], h)
    scale, shift = np.split(sum(dense(p[f"time_{i}"], time) for i, time in enumerate(times)), 2)
    x = x * (1 + scale) + shift
    if "attention" in p:
        pixels = norm(x).reshape(-1, x.shape[-1])
        context = np.concatenate([dense(p["context"], silu(tokens)), pixels])
        heads = p["attention"]
        read = [dense(heads[name], a) for name, a in (("query", pixels), ("key", context), ("value", context))]
        x = x + out_of_heads(heads["out"], attention(*read)).reshape(x.shape)
    return x


@pytest.mark.parametrize("with_skip", [False, True])
def test_a_layer_is_its_equations(with_skip):
    x, times, tokens = normal(2, 3, 4, 6), normal(2, 2, 5), normal(2, 3, 7)
    skip = (normal(2, 3, 4, 3),) * with_skip
    p, (found, _) = applied(CascadeLayer(2, 3, "auto", "float32"), x, times, tokens, *skip)
    for b in range(2):
        close(found[b], layer(p, *(np.float64(a[b]) for a in (x, times, tokens, *skip))))


class Layer(nn.Module):
    """A layer that is small to trace: x plus a sum of everything else."""

    heads: int
    kernel: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x, times, tokens, skip=None):
        x = x if skip is None else x + nn.Dense(x.shape[-1], name="skip")(skip)
        others = jnp.concatenate([times.reshape(len(x), -1), tokens.reshape(len(x), -1)], axis=-1)
        return x + nn.Dense(x.shape[-1], name="others")(others)[:, None, None], None


def layer_of_sums(p, x, times, tokens, skip=None):
    x = x if skip is None else x + dense(p["skip"], skip)
    return x + dense(p["others"], np.concatenate([times.ravel(), tokens.ravel()]))


def test_both_ways_are_their_equations(monkeypatch):
    """Of stage B: halved by a convolution, doubled by a transposed one, whose kernel lies the other way round."""
    monkeypatch.setattr(network, "scanned", one_layer)
    monkeypatch.setattr(network, "CascadeLayer", Layer)
    net = StableCascade(
        3, 2, (4, 6), (1, 1), (2, 1), (1, 1), (1, 1), (0, 2), ("convolution",), 5, 7, 2, 0, 0, 3, 2, 2, 6
    )
    x, t, pooled, coarse = normal(2, 4, 8, 3), np.float32([0.3, 0.8]), normal(2, 7), normal(2, 1, 3, 3)
    p, found = applied(net, x, t, {"pooled": pooled, "coarse": coarse})
    for b in range(2):
        times = np.float64(time_features(np.array([t[b], 0], np.float32), 6))
        tokens = norm(dense(p["pooled"], np.float64(pooled[b])).reshape(2, 5))
        small = np.float64(x[b]).reshape(2, 2, 4, 2, 3).transpose(0, 2, 4, 1, 3).reshape(2, 4, 12)  # channel by channel
        h = norm(dense(p["patch_embedding"], small))
        wide = np.apply_along_axis(  # 1 x 3 pixels on 2 x 4, whose corners stay
            lambda row: np.interp(np.linspace(0, 2, 4), range(3), row), 1, np.float64(coarse[b])[[0, 0]]
        )
        for name, picture in (("coarse", wide), ("pixels", np.zeros((1, 1, 2)))):
            h = h + norm(dense(p[f"{name}_out"], exact_gelu(dense(p[f"{name}_hidden"], picture))))
        skip = layer_of_sums(p["down_0"], h, times, tokens)
        kernel = p["down_1_resize"]["kernel"].reshape(-1, 6)
        h = (patches(norm(skip)) @ kernel + p["down_1_resize"]["bias"]).reshape(1, 2, 6)
        h = layer_of_sums(p["up_1"], layer_of_sums(p["down_1"], h, times, tokens), times, tokens)
        doubled = np.einsum("hwc,ijcd->hiwjd", norm(h), p["up_1_resize"]["kernel"][::-1, ::-1])
        h = doubled.reshape(2, 4, 4) + p["up_1_resize"]["bias"]
        h = layer_of_sums(p["up_0"], layer_of_sums(p["up_0_first"], h, times, tokens, skip), times, tokens)
        h = dense(p["final"], norm(h)).reshape(2, 4, 3, 2, 2).transpose(0, 3, 1, 4, 2)
        close(found[b], h.reshape(4, 8, 3))


@pytest.mark.parametrize(
    ("size", "weights"), [(3, [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]), (9, np.eye(9)[::2])]
)
def test_the_first_and_the_last_pixel_stay_when_a_side_becomes_five(size, weights):
    np.testing.assert_allclose(network._interpolation(size, 5), weights, atol=1e-12)


def test_a_block_of_its_autoencoder_is_its_equations():
    """Its border repeats; gates are the scales, shifts and gates of both parts."""
    x = normal(2, 3, 4, 5)
    p, found = applied(paella._Block(), x)
    for b in range(2):
        gates, h = p["gates"], np.float64(x[b])
        h = h + gates[2] * depthwise(p["depthwise"], norm(h) * (1 + gates[0]) + gates[1], "edge")
        hidden = exact_gelu(dense(p["hidden"], norm(h) * (1 + gates[3]) + gates[4]))
        close(found[b], h + gates[5] * dense(p["out"], hidden))
