"""What the fields of image encoders do: tokens by NumPy under layers that add nothing, norms, types, attention.

A layer whose parameters are zero adds nothing, so that what comes out is the norm of what goes in, token by token.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.image_encoders.blip import BLIP
from diffusion.models.image_encoders.convnext import ConvNeXt
from diffusion.models.image_encoders.dinov2 import DINOv2
from diffusion.models.image_encoders.dinov3 import DINOv3
from diffusion.models.image_encoders.ijepa import IJEPA
from diffusion.models.image_encoders.mae import MAE
from diffusion.models.image_encoders.siglip import SigLIP
from diffusion.models.image_encoders.videomae import VideoMAE
from diffusion.models.layers import attention
from tests.models.interchange import published

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PLAIN = (0.5,) * 3, (0.5,) * 3
SMALL: dict[str, Any] = {"width": 8, "depth": 2, "heads": 2, "hidden": 16, "patch": 2, "epsilon": 0.3}
GRID: dict[str, Any] = {**SMALL, "size": 8}
ENCODERS = {  # module, mean and deviation of its channels, whether a class token comes first
    "dinov2": (DINOv2(**GRID), IMAGENET, True),
    "dinov2 with registers": (DINOv2(**GRID, registers=3), IMAGENET, True),
    "dinov3": (DINOv3(**SMALL), IMAGENET, True),
    "dinov3 without registers": (DINOv3(**SMALL, registers=0), IMAGENET, True),
    "mae": (MAE(**GRID), IMAGENET, True),
    "ijepa": (IJEPA(**GRID), IMAGENET, False),
    "blip": (BLIP(**GRID), CLIP, True),
    "siglip": (SigLIP(**GRID), PLAIN, False),
}
# Another encoder here has the same blocks, with registers or with the other normalisation.
ALIKE = ("dinov2", "dinov3 without registers", "convnext 1")
MODULES = {name: module for name, (module, *_) in ENCODERS.items()}
CLIPS = VideoMAE(**GRID, frames=4)
EVERY = {**MODULES, "videomae": CLIPS, "convnext": ConvNeXt((4, 6), (1, 1)), "convnext 1": ConvNeXt((4, 6), (1, 1), 1)}
MATRICES = published.case("dinov2_offset").outputs  # PyTorch's, from 37 values to 16


def unless_alike(names):
    return [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in names]


def pictures(module, side=8):
    shape = (2, 4, side, side, 3) if module is CLIPS else (2, side, side, 3)
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, shape), jnp.float32)


@functools.cache
def applied(module, **how):
    """The network of a module, compiled."""
    return jax.jit(functools.partial(module.apply, **how))


def drawn(module, images):
    """Parameters, none of which is zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)


def begun(module, *path):
    """Initial parameters at a path, by a program that draws no others."""
    part = lambda key, images: functools.reduce(dict.__getitem__, path, module.init(key, images)["params"])
    return jax.jit(part)(jax.random.key(0), pictures(module))


def without_layers(params):
    """(parameters whose layers add nothing, scale and bias of the norm behind them)."""
    final = params["encoder"]["norm"]
    dead = jax.tree.map(np.zeros_like, params["encoder"])
    return {**params, "encoder": {**dead, "norm": final}}, final.get("scale", 1.0), final.get("bias", 0.0)


def tokens(params, images, colours, patch, first, matrix=None, masked=None):
    """(tokens before the patches [.., D], those of the patches [B, N, D]) in float64."""
    mean, deviation = (np.array(part, np.float64) for part in colours)
    x = ((np.asarray(images, np.float64) + 1) / 2 - mean) / deviation
    rows, columns = (side // patch for side in x.shape[1:3])
    cut = lambda r, c: x[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].reshape(len(x), -1)
    x = np.stack([cut(r, c) for r in range(rows) for c in range(columns)], axis=1)
    x = x @ params["patches"]["dense"]["kernel"] + params["patches"]["dense"]["bias"]
    if masked is not None:
        x = np.where(masked[..., None], params["mask_token"], x)
    before = params["class_token"] if first else np.zeros((0, x.shape[-1]))
    if "positions" in params:
        table = params["positions"]["table"].astype(np.float64)
        grid = table[len(before) :]
        if matrix is not None:
            learned = grid.reshape(matrix.shape[1], matrix.shape[1], -1)
            grid = np.einsum("ih,jw,hwc->ijc", matrix, matrix, learned).reshape(-1, x.shape[-1])
        before, x = before + table[: len(before)], x + grid
    return np.concatenate([before, params.get("registers", before[:0])]), x


def norm(x, epsilon, scale=1.0, bias=0.0):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + bias


def close(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.extended
@pytest.mark.parametrize("name", ENCODERS)
def test_features_are_norms_of_the_tokens_where_layers_add_nothing(name):
    module, colours, first = ENCODERS[name]
    images = pictures(module)
    params, scale, bias = without_layers(drawn(module, images))
    before, patches = tokens(params, images, colours, 2, first)
    features = applied(module)({"params": params}, images)
    close(features.patches, norm(patches, 0.3, scale, bias))
    if first:  # the class token, the same for each picture here
        close(features.pooled, np.repeat(norm(before[:1], 0.3, scale, bias), 2, axis=0))
    elif name == "ijepa":  # the mean of the normalised patches
        close(features.pooled, norm(patches, 0.3, scale, bias).mean(axis=1))


@pytest.mark.extended
@pytest.mark.parametrize("name", ["dinov2 with registers", "dinov3"])
def test_the_mask_token_stands_in_place_of_patches(name):
    module, colours, _ = ENCODERS[name]
    images = pictures(module)
    masked = np.random.default_rng(2).random((2, 16)) < 0.4
    params, scale, bias = without_layers(drawn(module, images))
    _, patches = tokens(params, images, colours, 2, True, masked=masked)
    close(applied(module)({"params": params}, images, masked).patches, norm(patches, 0.3, scale, bias))
    assert not np.any(begun(module, "mask_token"))


GRIDS = {
    "dinov2": ("coarser", {}),
    "dinov2 with an offset": ("coarser_offset", {"offset": 0.1}),
    "dinov2 with registers": ("coarser_antialiased", {}),
    "mae": ("coarser", {}),
    "ijepa": ("coarser", {}),
    "blip": ("coarser", {}),
    "siglip": ("coarser", {}),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_of_positions_is_interpolated_as_by_pytorch(name):
    """Learned for 37 x 37 patches, and 16 x 16 are seen; with registers the filter is wider, as published."""
    matrix, fields = GRIDS[name]
    module, colours, first = ENCODERS[name.removesuffix(" with an offset")]
    module = module.clone(size=74, **fields)
    images = pictures(module, 32)
    params, scale, bias = without_layers(drawn(module, images))
    assert params["positions"]["table"].shape == (37**2 + first, 8)
    _, patches = tokens(params, images, colours, 2, first, MATRICES[matrix].astype(np.float64))
    expected = norm(patches, 0.3, scale, bias)
    found = applied(module)({"params": params}, images).patches
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4 * np.abs(expected).max())  # PyTorch's float32


@pytest.mark.extended
@pytest.mark.parametrize("name", unless_alike(name for name in MODULES if name != "blip"))
def test_the_last_norm_of_a_representation_autoencoder_has_no_scale_and_no_shift(name):
    module = MODULES[name].clone(affine=False)
    images = pictures(module)
    params = drawn(module, images)
    params["encoder"].setdefault("norm", {})
    assert not params["encoder"]["norm"]
    params, *_ = without_layers(params)
    _, patches = tokens(params, images, ENCODERS[name][1], 2, ENCODERS[name][2])
    close(applied(module)({"params": params}, images).patches, norm(patches, 0.3))


@pytest.mark.extended
def test_siglip_skips_its_last_layers_for_the_patches_alone():
    """The state before the last layer, not normalised; the pooled vector is as without."""
    module = MODULES["siglip"]
    images = pictures(module)
    params = drawn(module, images)
    whole, skipped = (applied(module, **skip)({"params": params}, images) for skip in ({}, {"skip": 1}))
    np.testing.assert_allclose(skipped.pooled, whole.pooled, rtol=1e-5, atol=1e-6)
    layers = jax.tree.map(lambda leaf: leaf[:1], params["encoder"]["layers"])
    shorter = {**params, "encoder": {**params["encoder"], "layers": layers}}
    normal = applied(module.clone(depth=1))({"params": shorter}, images).patches
    final = params["encoder"]["norm"]
    state = np.asarray(skipped.patches, np.float64)
    close(normal, norm(state, 0.3, final["scale"], final["bias"]))
    params, *_ = without_layers(params)
    _, expected = tokens(params, images, PLAIN, 2, False)
    close(applied(module, skip=1)({"params": params}, images).patches, expected)


@pytest.mark.extended
def test_siglip_cuts_off_what_fills_no_patch():
    module = MODULES["siglip"]
    images = pictures(module, 9)
    params = drawn(module, images[:, :8, :8])
    found, expected = (applied(module)({"params": params}, x) for x in (images, images[:, :8, :8]))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.extended
def test_dinov3_fuses_the_layers_that_are_named():
    """mean_k h_k + the mean of the last h over the picture, where h_k is the network that ends with layer k."""
    module = MODULES["dinov3"].clone(depth=3)
    images = pictures(module)
    params = drawn(module, images)

    def after(depth):
        layers = jax.tree.map(lambda leaf: leaf[:depth], params["encoder"]["layers"])
        shorter = {**params, "encoder": {**params["encoder"], "layers": layers}}
        return applied(module.clone(depth=depth))({"params": shorter}, images)

    first, third = after(1), after(3)
    expected = (first.patches + third.patches) / 2 + third.patches.mean(axis=1, keepdims=True)
    found = applied(module.clone(fused=(1, 3)))({"params": params}, images)
    close(found.patches, expected)
    close(found.pooled, third.pooled)
    for fused in ((3, 1), (1, 1), (0, 1), (1, 4)):
        with pytest.raises(ValueError, match=r"layers out of 1 \.\. 3, in increasing order, each at most once"):
            module.clone(fused=fused)
    with pytest.raises(ValueError, match="must be a multiple of 4 heads"):
        DINOv3(**{**SMALL, "heads": 4})


@pytest.mark.extended
@pytest.mark.parametrize("name", unless_alike(EVERY))
def test_bfloat16_is_the_type_of_the_computation_alone(name):
    module = EVERY[name]
    images = pictures(module)
    params = jax.tree.map(lambda leaf: 0.3 * leaf, drawn(module, images))
    half = module.clone(dtype="bfloat16")
    shapes = jax.eval_shape(half.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    exact, rough = (applied(each)({"params": params}, images) for each in (module, half))
    for one, other in zip(exact, rough):
        assert other.dtype == jnp.float32
        off = np.abs(one - other).max() / np.abs(one).max()
        assert 1e-4 < off < 0.1
    types = {str(variable.aval.dtype) for variable in products(jax.make_jaxpr(half.apply)({"params": params}, images))}
    assert types == {"bfloat16"}


def products(jaxpr):
    """What goes into each matrix product and convolution of a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield from equation.invars
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from products(inner)


@pytest.mark.extended
@pytest.mark.parametrize("name", [name for name in EVERY if "convnext" not in name])
def test_every_attention_has_the_implementation_that_is_named(name, monkeypatch):
    module = EVERY[name]
    images = pictures(module)
    seen = []
    for each, computed in dict(attention.IMPLEMENTATIONS).items():
        stand_in = lambda *arguments, each=each, computed=attention.xla: seen.append(each) or computed(*arguments)
        monkeypatch.setitem(attention.IMPLEMENTATIONS, each, stand_in)
    for each in ("xla", "matmul"):
        seen.clear()
        jax.eval_shape(module.clone(attention=each).init, jax.random.key(0), images)
        assert set(seen) == {each}


def test_a_fresh_convnext_begins_as_published():
    """The scale of V1 at 1e-6; the response normalisation of V2 as the identity."""
    first, second = EVERY["convnext 1"], EVERY["convnext"]
    assert {float(value) for value in begun(first, "stage_0_block_0", "scale")} == {np.float32(1e-6)}
    blocks = [jax.eval_shape(net.init, jax.random.key(0), pictures(net))["params"] for net in (first, second)]
    assert "response" not in blocks[0]["stage_0_block_0"] and "scale" not in blocks[1]["stage_0_block_0"]
    assert not any(np.any(leaf) for leaf in begun(second, "stage_1_block_0", "response").values())
