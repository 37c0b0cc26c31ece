"""ConvNeXt by hand: stem, blocks and the way between two stages in NumPy, where the epsilons of the norms count."""

import math

import jax
import numpy as np
import pytest

from diffusion.models.image_encoders.convnext import ConvNeXt

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ERF = np.vectorize(math.erf)


def norm(x, part, epsilon=1e-6):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * part["scale"] + part["bias"]


def patches(x, part):
    """A convolution whose stride is its side."""
    side, _, channels, width = part["kernel"].shape
    rows, columns = x.shape[1] // side, x.shape[2] // side
    cut = x.reshape(len(x), rows, side, columns, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(len(x), rows, columns, -1) @ part["kernel"].reshape(-1, width) + part["bias"]


def block(x, part, version):
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    height, columns = x.shape[1:3]
    kernel = part["depthwise"]["kernel"][:, :, 0]
    shifted = lambda i, j: padded[:, i : i + height, j : j + columns] * kernel[i, j]
    h = sum(shifted(i, j) for i in range(7) for j in range(7)) + part["depthwise"]["bias"]
    h = norm(h, part["norm"]) @ part["hidden"]["kernel"] + part["hidden"]["bias"]
    h = h / 2 * (1 + ERF(h / math.sqrt(2)))
    if version == 2:
        length = np.sqrt((h**2).sum((1, 2), keepdims=True))
        share = length / (length.mean(-1, keepdims=True) + 1e-6)
        h = h + part["response"]["scale"] * h * share + part["response"]["bias"]
    h = h @ part["out"]["kernel"] + part["out"]["bias"]
    return x + (h * part["scale"] if version == 1 else h)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("version", "hidden", "tolerance"), [(1, 1e-6, 1e-4), (2, 1e-6, 1e-4), (1, 1.0, 1e-5), (2, 1.0, 1e-5)]
)
def test_features_are_those_of_the_paper(version, hidden, tolerance):
    """Kernels are so small that the variances before the norms are about the epsilon of the authors' code.

    With small hidden kernels the response's epsilon counts; with large ones the exact GELU does.
    """
    module = ConvNeXt((4, 6), (1, 2), version, epsilon=1e-3)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 8, 3)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    for name, size in (("stem", 3e-4), ("down_1", 1e-3)):
        params[name] = {part: leaf * np.float32(size) for part, leaf in params[name].items()}
    for name in ("stage_0_block_0", "stage_1_block_0", "stage_1_block_1"):
        for part, size in (("depthwise", 1e-4), ("hidden", hidden)):
            params[name][part] = {part: leaf * np.float32(size) for part, leaf in params[name][part].items()}
        params[name]["out"]["kernel"] *= np.float32(1e5 if hidden < 1 else 1)
        for part in ("norm", "response") if version == 2 else ("norm",):
            params[name][part]["bias"] *= 0
    seen = jax.jit(module.apply)({"params": params}, images)
    exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    x = ((images.astype(np.float64) + 1) / 2 - MEAN) / STD
    x = norm(patches(x, exact["stem"]), exact["stem_norm"])
    x = block(x, exact["stage_0_block_0"], version)
    x = patches(norm(x, exact["down_1_norm"]), exact["down_1"])
    for name in ("stage_1_block_0", "stage_1_block_1"):
        x = block(x, exact[name], version)
    x = x.reshape(2, 2, 6)
    np.testing.assert_allclose(seen.patches, x, rtol=0, atol=tolerance * np.abs(x).max())
    pooled = norm(x.mean(axis=1), exact["norm"], 1e-3)
    np.testing.assert_allclose(seen.pooled, pooled, rtol=0, atol=tolerance * np.abs(pooled).max())
