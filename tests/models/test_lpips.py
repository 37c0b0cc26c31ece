"""LPIPS's features beside a restatement in NumPy, its file, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion.models import interchange
from diffusion.models.interchange import folder_writing, lpips_tables
from diffusion.models.lpips import LPIPS
from diffusion.objectives.autoencoding import perceptual_distance

SMALL = LPIPS(widths=(3, 5, 4))
NAMES = {  # of the lpips package: convolutions by their places in torchvision's vgg16.features
    "conv_0_0": "net.slice1.0", "conv_0_1": "net.slice1.2", "conv_1_0": "net.slice2.5", "conv_1_1": "net.slice2.7",
    "conv_2_0": "net.slice3.10", "conv_2_1": "net.slice3.12", "conv_2_2": "net.slice3.14",
}  # fmt: skip


def parameters(module, side=8):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, side, side, 3))))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: np.abs(rng.normal(0.1, 0.4, s.shape)).astype(np.float32), shapes)


def signed(params):
    """The convolutions have weights of both signs."""
    rng = np.random.default_rng(1)
    flip = lambda leaf: leaf * rng.choice([-1, 1], leaf.shape).astype(np.float32)
    return {name: leaf if name.startswith("weights") else jax.tree.map(flip, leaf) for name, leaf in params.items()}


def restated(params, x, stages):
    """The features of pictures, in float64, by windows of 3 x 3."""
    h = (np.asarray(x, np.float64) - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
    features = []
    for stage, convolutions in enumerate(stages):
        if stage:
            h = np.lib.stride_tricks.sliding_window_view(h, (2, 2), (1, 2))[:, ::2, ::2].max((-1, -2))
        for i in range(convolutions):
            layer = params[f"conv_{stage}_{i}"]
            padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))  # [B, H, W, C, 3, 3]
            h = np.maximum(np.einsum("bhwcij,ijco->bhwo", windows, layer["kernel"]) + layer["bias"], 0)
        features.append(h)
    return features


@pytest.mark.extended
def test_features_and_distance_are_the_restatements():
    params = signed(parameters(SMALL))
    x, y = np.random.default_rng(2).uniform(-1, 1, (2, 2, 8, 8, 3)).astype(np.float32)
    apply = jax.jit(lambda x: SMALL.apply({"params": params}, x))
    ours, others = apply(x), apply(y)
    expected = 0.0
    unit = lambda f: f / (np.linalg.norm(f, axis=-1, keepdims=True) + 1e-10)
    for layer, pair in enumerate(zip(restated(params, x, (2, 2, 3)), restated(params, y, (2, 2, 3)))):
        np.testing.assert_allclose(ours.layers[layer], pair[0], atol=1e-5 * np.abs(pair[0]).max())
        square = (unit(pair[0]) - unit(pair[1])) ** 2 * params[f"weights_{layer}"]
        expected = expected + square.sum(-1).mean((1, 2))
    np.testing.assert_allclose(perceptual_distance(ours.layers, others.layers, ours.weights), expected, rtol=1e-4)


def test_its_file_has_the_names_of_the_lpips_package(tmp_path):
    params = parameters(SMALL)
    file = dict(folder_writing.write(lpips_tables.FAMILY, SMALL, "lpips", params))
    for ours, theirs in NAMES.items():
        np.testing.assert_array_equal(file[f"{theirs}.weight"], params[ours]["kernel"].transpose(3, 2, 0, 1))
        np.testing.assert_array_equal(file[f"{theirs}.bias"], params[ours]["bias"])
    assert file["lin1.model.1.weight"].shape == (1, 5, 1, 1)
    np.testing.assert_array_equal(file["lins.1.model.1.weight"], file["lin1.model.1.weight"])
    np.testing.assert_allclose(file["scaling_layer.scale"].ravel(), [0.458, 0.448, 0.450])
    save_file({name: np.ascontiguousarray(array) for name, array in file.items()}, tmp_path / "model.safetensors")
    module, read = interchange.load(tmp_path, "LPIPS", config={"widths": [3, 5, 4]})
    assert module == SMALL
    jax.tree.map(np.testing.assert_array_equal, read, params)
    with pytest.raises(interchange.Mismatch, match=r"net.slice3.10.weight has shape \[4, 5, 3, 3\], not"):
        interchange.load(tmp_path, "LPIPS", config={"widths": [3, 5, 6]})


def test_what_it_refuses():
    call = lambda shape: jax.eval_shape(lambda: SMALL.init(jax.random.key(0), jnp.zeros(shape)))
    assert call((1, 4, 4, 1))["params"]["conv_0_0"]["kernel"].shape == (3, 3, 3, 3)  # grey pictures as coloured ones
    with pytest.raises(ValueError, match=r"3 stages takes pictures .* of at least 4 x 4 pixels; got .*\(1, 2, 8, 3\)"):
        call((1, 2, 8, 3))
    with pytest.raises(ValueError, match=r"widths=\(\) must be 1 to 5 positive numbers"):
        LPIPS(widths=())


@pytest.mark.slow
def test_the_published_size():
    """VGG16's convolutions, 14,714,688 numbers, and 1,472 weights."""
    shapes = jax.eval_shape(lambda: LPIPS().init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 14_714_688 + 1_472
