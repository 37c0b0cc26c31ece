"""I3D beside PyTorch's, with made weights, and one inflated block beside SciPy's correlation."""

import json
import os
import pathlib

import jax
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file
from scipy import ndimage

from diffusion.metrics import i3d
from diffusion.metrics.inception_weights import WeightsError
from tests.peers.made_weights import drawn, made

FOLDER = pathlib.Path(os.environ.get("PEERS_FIXTURES") or pathlib.Path(__file__).parent.parent / "fixtures")
CLIPS = {"whole": (2, 16, 32, 32, 3), "uneven": (1, 11, 45, 38, 3)}


@pytest.fixture(scope="module")
def tensors():
    return {name: made(name, shape) for name, shape in i3d.SHAPES.items()}


def test_the_tensors_are_those_of_the_peer():
    with safetensors.safe_open(FOLDER / "i3d.safetensors", framework="numpy") as file:
        stated = {name: tuple(json.loads(shape)) for name, shape in file.metadata().items()}
    assert i3d.SHAPES == stated and len(i3d.CONVOLUTIONS) == 57


def correlated(x, kernel):
    """[F, H, W, C] by [out, in, ...], zeros around."""
    total = lambda weights: sum(
        ndimage.correlate(x[..., i], weight, mode="constant") for i, weight in enumerate(weights)
    )
    return np.stack([total(weights) for weights in kernel], -1)


def test_a_block_is_a_correlation_a_norm_and_a_maximum():
    """Of the published form, with few channels: what a block does depends on its tensors alone."""
    sizes = {"b0": (2, 3, 1), "b1a": (2, 3, 1), "b1b": (3, 2, 3), "b2a": (1, 3, 1), "b2b": (2, 1, 3), "b3b": (2, 3, 1)}
    kernels = {name: made(f"block {name}", (out, into, k, k, k)) for name, (out, into, k) in sizes.items()}
    bias = {name: made(f"bias {name}", (sizes[name][0],)) for name in sizes}
    params = {f"Mixed_3b.{name}.kernel": kernel.transpose(2, 3, 4, 1, 0) for name, kernel in kernels.items()}
    params |= {f"Mixed_3b.{name}.bias": each for name, each in bias.items()}
    x = np.abs(drawn("block", 4, 5, 3, 3)).astype(np.float64)
    unit = lambda name, x: np.maximum(correlated(x, kernels[name].astype(np.float64)) + bias[name], 0)
    pooled = ndimage.maximum_filter(x, size=(3, 3, 3, 1), mode="constant")
    expected = [
        unit("b0", x), unit("b1b", unit("b1a", x)), unit("b2b", unit("b2a", x)), unit("b3b", pooled),
    ]  # fmt: skip
    found = i3d.mixed(params, "Mixed_3b", x[None].astype(np.float32))[0]
    np.testing.assert_allclose(found, np.concatenate(expected, -1), atol=1e-5)


@pytest.mark.extended
def test_a_batch_norm_is_folded(tensors):
    name = "Mixed_3b.b0"
    params = i3d.fold(tensors)
    x = drawn("pixel", 192).astype(np.float64)
    part = lambda each: tensors[f"{name}.{each}"].astype(np.float64)
    product = part("conv3d.weight")[:, :, 0, 0, 0] @ x
    expected = part("bn.weight") * (product - part("bn.running_mean")) / np.sqrt(part("bn.running_var") + 1e-3)
    found = x @ np.asarray(params[f"{name}.kernel"][0, 0, 0], np.float64) + np.asarray(params[f"{name}.bias"])
    np.testing.assert_allclose(found, expected + part("bn.bias"), atol=1e-5)


@pytest.mark.extended
def test_another_file_is_refused_by_its_first_tensor(tensors, tmp_path):
    save_file(tensors, tmp_path / "whole.safetensors")
    assert i3d.read(tmp_path / "whole.safetensors").keys() == i3d.SHAPES.keys()
    less = {name: array for name, array in tensors.items() if name != "Mixed_4f.b2b.bn.bias"}
    save_file(less, tmp_path / "less.safetensors")
    with pytest.raises(WeightsError, match=r"Mixed_4f.b2b.bn.bias \[128\] is missing"):
        i3d.load(tmp_path / "less.safetensors")
    save_file({**tensors, "logits.conv3d.bias": np.zeros(600, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"logits.conv3d.bias is float32 \[600\]. Valid: float32 \[400\]"):
        i3d.load(tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no file"):
        i3d.load(tmp_path / "none")
    with pytest.raises(ValueError, match=r"F >= 9 frames; got \[1, 8, 32, 32, 3\]"):
        i3d.features({}, np.zeros((1, 8, 32, 32, 3), np.float32))


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("a.bias", np.zeros(3, np.float32), r"a.bias is float32 \[3\]. Valid: float32 \[2\], finite"),
        ("a.bias", np.zeros(2, np.float16), r"a.bias is float16 \[2\]"),
        ("a.bias", np.float32([0, np.nan]), r"a.bias is float32 \[2\]. Valid: float32 \[2\], finite"),
        ("a.running_var", np.float32([1, -1e-3]), "a.running_var has a variance below 0"),
        ("a.running_var", None, r"a.running_var \[2\] is missing"),
    ],
)
def test_each_tensor_has_its_shape_its_type_and_finite_values(monkeypatch, tmp_path, name, values, message):
    monkeypatch.setattr(i3d, "SHAPES", {"a.bias": (2,), "a.running_var": (2,)})
    tensors = {"a.bias": np.float32([-1, 2]), "a.running_var": np.zeros(2, np.float32), "other": np.zeros(1)}
    save_file(tensors, tmp_path / "good.safetensors")
    assert i3d.read(tmp_path / "good.safetensors").keys() == i3d.SHAPES.keys()
    changed = tensors | {name: values}
    save_file({key: array for key, array in changed.items() if array is not None}, tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match=message):
        i3d.read(tmp_path / "bad.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_logits_are_the_peers(tensors, name):
    expected = load_file(FOLDER / "i3d.safetensors")[name]
    found = i3d.features(i3d.fold(tensors), drawn(f"i3d {name}", *CLIPS[name]))
    assert np.abs(expected).max() > 0.05, "an output of zeros compares nothing"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_every_convolution_reads_what_the_one_before_it_writes():
    """As published (Carreira and Zisserman 2017, figure 3): the widths at the ends of the stem and of each module."""
    widths = {"3b": 256, "3c": 480, "4b": 512, "4c": 512, "4d": 512, "4e": 528, "4f": 832, "5b": 832, "5c": 1024}
    shapes = i3d.CONVOLUTIONS
    stem = [shapes[name][:2] for name in ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")]
    assert stem == [(64, 3), (64, 64), (192, 64)]
    entering = 192
    for name, width in widths.items():
        block = {part: shapes[f"Mixed_{name}.{part}"] for part in ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")}
        assert {block[part][1] for part in ("b0", "b1a", "b2a", "b3b")} == {entering}
        assert block["b1b"][1] == block["b1a"][0] and block["b2b"][1] == block["b2a"][0]
        assert sum(block[part][0] for part in ("b0", "b1b", "b2b", "b3b")) == width
        entering = width


def test_the_grid_shrinks_as_in_the_paper(monkeypatch):
    """Carreira and Zisserman 2017, figure 3: 16 frames of 224 pixels before and after each maximum, and at the end."""
    seen = []
    pool = i3d._max_pool

    def recorded(x, window, stride):
        y = pool(x, window, stride)
        seen.append((window, x.shape[1:4], y.shape[1:4]))
        return y

    monkeypatch.setattr(i3d, "_max_pool", recorded)
    params = {}
    for name, shape in i3d.CONVOLUTIONS.items():
        params[f"{name}.kernel"] = jax.ShapeDtypeStruct((*shape[2:], shape[1], shape[0]), np.float32)
        params[f"{name}.bias"] = jax.ShapeDtypeStruct(shape[:1], np.float32)
    params |= {"logits.kernel": jax.ShapeDtypeStruct((1024, 400), np.float32)}
    params |= {"logits.bias": jax.ShapeDtypeStruct((400,), np.float32)}
    clips = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), np.float32)
    assert jax.eval_shape(i3d.features, params, clips).shape == (1, 400)
    assert [step for step in seen if step[1] != step[2]] == [
        ((1, 3, 3), (8, 112, 112), (8, 56, 56)),
        ((1, 3, 3), (8, 56, 56), (8, 28, 28)),
        ((3, 3, 3), (8, 28, 28), (4, 14, 14)),
        ((2, 2, 2), (4, 14, 14), (2, 7, 7)),
    ]
    assert len(seen) == 4 + len(i3d.BLOCKS)


def test_pairs_of_steps_that_follow_one_another_are_averaged_and_classified(monkeypatch):
    """Where all layers before are left out: of four steps the inner two count twice."""
    for layer in ("_conv", "_max_pool", "mixed"):
        monkeypatch.setattr(i3d, layer, lambda *arguments: next(a for a in arguments if np.ndim(a) == 5))
    monkeypatch.setattr(i3d, "FRAMES", 4)
    rng = np.random.default_rng(0)
    clips, kernel, bias = rng.normal(size=(2, 4, 5, 6, 3)), rng.normal(size=(3, 400)), rng.normal(size=400)
    steps = clips.mean((2, 3))
    expected = (steps[:, 0] + 2 * steps[:, 1] + 2 * steps[:, 2] + steps[:, 3]) / 6 @ kernel + bias
    found = i3d.features.__wrapped__({"logits.kernel": kernel, "logits.bias": bias}, clips)
    np.testing.assert_allclose(found, expected, atol=1e-5)
