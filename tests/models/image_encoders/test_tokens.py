"""The tokens before the layers of an encoder, and the features behind layers that leave the tokens as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.image_encoders import dinov2, dinov3, ijepa, mae, plain_vit, siglip, videomae
from diffusion.models.image_encoders.convnext import ConvNeXt, ResponseNorm, _Block

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of ImageNet's channels
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
SMALL = {"width": 8, "depth": 2, "heads": 2, "hidden": 16, "patch": 2}


@pytest.fixture
def layers(monkeypatch):
    """(tokens, further arguments, fields) of each call of the layers, which are recorded twice if asked."""
    calls = []

    def encoder_layers(encoder, mlp="gelu", **fields):
        def layers(x, *more, **how):
            calls.append((x, more, {"mlp": mlp, **fields, **how}))
            return jnp.stack([3 * x, x]) if fields.get("recorded") else (x, 5 * x) if how.get("skip") else x

        return layers

    for module in (plain_vit, dinov2, dinov3, siglip):
        monkeypatch.setattr(module, "encoder_layers", encoder_layers)
    return calls


def applied(module, images, *names):
    """(features, parameters drawn by NumPy) of a module whose parameters have some names."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    assert set(shapes) == set(names)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    return module.apply({"params": params}, images), params


def patches(images, params, imagenet=True):
    """The dense layer on patches of 2 x 2 pixels, row by row."""
    x = ((images + 1) / 2 - MEAN) / STD if imagenet else images
    cut = x.reshape(len(x), 2, 2, 2, 2, 3).swapaxes(2, 3).reshape(len(x), 4, 12)
    dense = params["patches"]["dense"]
    return cut @ dense["kernel"] + dense["bias"]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_class_token_comes_first_and_all_tokens_have_positions(layers):
    names = ("patches", "class_token", "positions")
    features, params = applied(mae.MAE(**SMALL, size=4), IMAGES, *names)
    leading = np.broadcast_to(params["class_token"], (2, 1, 8))
    expected = np.concatenate([leading, patches(IMAGES, params)], 1) + params["positions"]["table"]
    tokens, more, fields = layers[-1]
    close(tokens, expected)
    assert more == () and fields == {"mlp": "gelu"}
    close(features.patches, expected[:, 1:])
    close(features.pooled, expected[:, 0])


def test_without_a_class_token_the_mean_of_the_patches_is_pooled(layers):
    features, params = applied(ijepa.IJEPA(**SMALL, size=4), IMAGES, "patches", "positions")
    expected = patches(IMAGES, params) + params["positions"]["table"]
    close(features.patches, expected)
    close(features.pooled, expected.mean(1))


@pytest.mark.parametrize("registers", [0, 3])
def test_registers_of_dinov2_have_no_position_and_are_left_out(layers, registers):
    module = dinov2.DINOv2(**SMALL, size=4, registers=registers, gated=registers > 0)
    names = ("patches", "mask_token", "class_token", "positions") + ("registers",) * (registers > 0)
    features, params = applied(module, IMAGES, *names)
    table = params["positions"]["table"]
    before = [params["class_token"] + table[:1], *([params["registers"]] if registers else [])]
    before = np.broadcast_to(np.concatenate(before), (2, 1 + registers, 8))
    after = patches(IMAGES, params) + table[1:]
    tokens, _, fields = layers[-1]
    close(tokens, np.concatenate([before, after], 1))
    assert fields == {"mlp": "swiglu" if registers else "gelu", "scale": True}
    close(features.patches, after)
    close(features.pooled, before[:, 0])


@pytest.mark.parametrize("registers", [0, 3])
def test_patches_of_dinov3_rotate_and_its_registers_are_left_out(layers, registers):
    module = dinov3.DINOv3(**SMALL, registers=registers, gated=registers > 0, theta=10.0)
    names = ("patches", "mask_token", "class_token") + ("registers",) * (registers > 0)
    features, params = applied(module, IMAGES, *names)
    before = np.concatenate([params["class_token"], *([params["registers"]] if registers else [])])
    tokens, (turns,), fields = layers[-1]
    close(tokens, np.concatenate([np.broadcast_to(before, (2, *before.shape)), patches(IMAGES, params)], 1))
    # A head of 4 has one frequency, 1: rows and columns are at -1/2 and 1/2 of the way, times 2 pi.
    np.testing.assert_allclose(turns, np.pi * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]), rtol=1e-6)
    expected = {"scale": True, "biased": ("query", "value"), "recorded": ()}
    assert fields == {"mlp": "swiglu" if registers else "gelu", **expected}
    close(features.patches, patches(IMAGES, params))
    close(features.pooled, np.broadcast_to(params["class_token"], (2, 8)))


def test_fused_features_are_the_mean_of_layers_and_the_last_ones_mean_over_the_picture(layers):
    """The layers are recorded as 3 h and h: mean_k h_k = 2 h, and the last one is h."""
    module = dinov3.DINOv3(**SMALL, registers=1, fused=(1, 2))
    features, params = applied(module, IMAGES, "patches", "mask_token", "class_token", "registers")
    h = patches(IMAGES, params)
    close(features.patches, 2 * h + h.mean(1, keepdims=True))
    close(features.pooled, np.broadcast_to(params["class_token"], (2, 8)))
    assert layers[-1][2]["recorded"] == (1, 2)


@pytest.mark.parametrize("skip", [0, 1])
def test_siglip_cuts_the_rest_of_a_side_off_and_pools_what_no_layer_is_skipped_for(layers, skip, monkeypatch):
    pools = []

    def pool(*fields, name):
        pools.append((fields, name))
        return lambda x: x.sum(1)

    monkeypatch.setattr(siglip, "AttentionPool", pool)
    module = siglip.SigLIP(**SMALL, size=4, epsilon=0.5)
    images = np.pad(IMAGES, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=9)
    _, params = applied(module, images, "patches", "positions")
    features = module.apply({"params": params}, images, skip=skip)
    expected = patches(IMAGES, params, imagenet=False) + params["positions"]["table"]
    assert layers[-1][2] == {"mlp": "gelu_tanh", "skip": skip}
    assert pools[-1] == ((2, 16, "gelu_tanh", 0.5, "auto", "float32"), "pool")
    close(features.patches, 5 * expected if skip else expected)
    close(features.pooled, expected.sum(1))


@pytest.mark.parametrize("last", ["mean", "tokens", "none"])
def test_tubelets_of_clips_have_sines_and_their_mean_is_pooled(last, monkeypatch):
    built = []

    def scanned(*arguments, **how):
        return lambda *fields, name: built.append((fields, name)) or (lambda x, _: (x, None))

    monkeypatch.setattr(videomae, "scanned", scanned)
    module = videomae.VideoMAE(
        **SMALL, size=4, frames=4, last=last, epsilon=0.5, last_epsilon=0.25, biased=last != "none"
    )
    clips = np.random.default_rng(2).normal(size=(2, 4, 4, 4, 3)).astype(np.float32)
    features, params = applied(module, clips, "patches", *(["norm"] if last != "none" else []))
    cut = clips.reshape(2, 2, 2, 2, 2, 2, 2, 3).transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(2, 8, 24)
    x = cut @ params["patches"]["kernel"] + params["patches"]["bias"]
    angles = np.arange(8)[:, None] / 10_000 ** (2 * (np.arange(8) // 2) / 8)
    x = x + np.where(np.arange(8) % 2, np.cos(angles), np.sin(angles))

    def norm(x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.25)
        return scaled * params["norm"]["scale"] + params["norm"]["bias"]

    tokens = norm(x) if last == "tokens" else x
    close(features.patches, tokens)
    close(features.pooled, norm(x.mean(1)) if last == "mean" else tokens.mean(1))
    biased = ("query", "value") if last != "none" else ()
    assert built[-1] == ((2, 16, "gelu", 0.5, False, biased, "auto", "float32"), "layers")


def test_dinov2_reads_the_middle_of_prompts_as_its_processor_does():
    """The shorter side is 256 pixels, of which 224 are read; a smaller encoder reads the same share."""
    reading = dinov2.DINOv2(**SMALL, size=518).prompt_reading
    assert (reading.side, reading.shorter, reading.tokens, reading.pooled) == (224, 256, 8, 8)
    smaller = dinov2.DINOv2(**SMALL, size=112).prompt_reading
    assert (smaller.side, smaller.shorter) == (112, 128)


# ==== ConvNeXt ====


@pytest.mark.parametrize("version", [1, 2])
def test_a_block_is_added_to_what_it_reads(version):
    """With a kernel of zeros its last layer puts out its bias, which version 1 scales."""
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 2)).astype(np.float32)
    shapes = jax.eval_shape(_Block(version, "float32").init, jax.random.key(0), x)["params"]
    assert set(shapes) == {"depthwise", "norm", "hidden", "out", "scale" if version == 1 else "response"}
    assert [shapes[name]["kernel"].shape for name in ("depthwise", "hidden", "out")] == [(7, 7, 1, 2), (2, 8), (8, 2)]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    params["out"]["bias"] = np.float32([1, -2])
    if version == 1:
        params["scale"] = np.float32([0.5, 3])
    expected = x + ([0.5, -6] if version == 1 else [1, -2])
    np.testing.assert_allclose(_Block(version, "float32").apply({"params": params}, x), expected, rtol=1e-6)


def test_a_response_is_a_channels_length_beside_the_mean_length():
    """Lengths over the picture of 5 and 15 are 1/2 and 3/2 of their mean."""
    x = np.float32([[[[3, 9], [4, 12]]]])
    params = {"scale": np.float32([2, 4]), "bias": np.float32([1, -1])}
    found = ResponseNorm().apply({"params": params}, x)
    np.testing.assert_allclose(found, x * (1 + np.array([2, 4]) * [0.5, 1.5]) + [1, -1], rtol=1e-5)


def test_stages_halve_the_sides_and_the_first_layer_has_patches_of_four():
    module = ConvNeXt((4, 6), (1, 2))
    images = jnp.zeros((2, 16, 32, 3))
    features, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    shapes = variables["params"]
    kernels = {name: part["kernel"].shape for name, part in shapes.items() if "kernel" in part}
    assert kernels == {"stem": (4, 4, 3, 4), "down_1": (2, 2, 4, 6)}
    blocks = {"stage_0_block_0", "stage_1_block_0", "stage_1_block_1"}
    assert set(shapes) - kernels.keys() == {"stem_norm", "down_1_norm", "norm", *blocks}
    assert (features.patches.shape, features.pooled.shape, module.patch) == ((2, 8, 6), (2, 6), 8)


@pytest.mark.parametrize("widths, depths", [((4, 0), (1, 1)), ((4, 6), (0, 1)), ((4, -1), (1, 1)), ((4,), (1, 1))])
def test_a_stage_has_a_width_and_blocks(widths, depths):
    assert ConvNeXt((1, 1), (1, 1)).patch == 8
    with pytest.raises(ValueError, match="must both have one positive number for each stage"):
        ConvNeXt(widths, depths)
