"""Encoders, decoders and layers of autoencoders of pictures, written out in float64 numpy, one picture at a time."""

import numpy as np
import pytest

from diffusion.models.autoencoders import deep_compression
from diffusion.models.autoencoders.encoder_decoder import Decoder, Encoder, Options
from tests.models.dit_oracle import silu
from tests.published.conftest import same_numbers  # noqa: F401
from tests.published.equations import applied, attention, close, convolution, dense, depthwise, group_norm, normal

GROUPS = 2
OPTIONS = Options((4, 6), 1, GROUPS, (1,), True, "auto", "float32")  # the level of half the side has attention


def compared(module, x, expected, within=2e-4):
    """Compares the outputs of a module with expected(its parameters, a picture)."""
    p, found = applied(module, x)
    for picture, output in zip(np.float64(x), found, strict=True):
        close(output, expected(p, picture), within)


# ==== VQGAN and latent diffusion ====


def block(p, x):
    h = convolution(p["conv_1"], silu(group_norm(p["norm_1"], x, GROUPS)))
    h = convolution(p["conv_2"], silu(group_norm(p["norm_2"], h, GROUPS)))
    return h + (x @ p["shortcut"]["kernel"][0, 0] + p["shortcut"]["bias"] if "shortcut" in p else x)


def mixed(p, x):
    """x after the attention of every pixel to all, with one head."""
    h = group_norm(p["norm"], x, GROUPS).reshape(-1, 1, x.shape[-1])
    out = attention(*(dense(p[name], h) for name in ("query", "key", "value")))
    return x + dense(p["project"], out).reshape(x.shape)


def blocks(p, x, attends):
    for i, attention_follows in enumerate(attends):
        x = block(p[f"block_{i}"], x)
        x = mixed(p[f"mixing_{i}"], x) if attention_follows else x
    return x


def out(p, x):
    return convolution(p["conv_out"], silu(group_norm(p["norm_out"], x, GROUPS)))


def doubled(x):
    return x.repeat(2, axis=0).repeat(2, axis=1)


def test_an_encoder_is_its_equations():
    """A side is halved by a kernel over the pixels 2 i, 2 i + 1 and 2 i + 2, and zeros behind the last."""

    def expected(p, x):
        x = blocks(p["level_0"], convolution(p["conv_in"], x), [False])
        behind = np.pad(x, [(0, 1), (0, 1), (0, 0)])
        windows = np.array([[behind[i : i + 3, j : j + 3] for j in (0, 2, 4)] for i in (0, 2)])
        x = np.tensordot(windows, p["down_0"]["kernel"], 3) + p["down_0"]["bias"]
        return out(p, blocks(p["middle"], blocks(p["level_1"], x, [True]), [True, False]))

    compared(Encoder(OPTIONS, 5), normal(2, 4, 6, 3), expected)


def test_a_decoder_is_its_equations():
    def expected(p, z):
        assert p["up_1"]["kernel"].shape == (3, 3, 6, 6)  # the width of its level; the next one's blocks change it
        x = blocks(p["middle"], convolution(p["conv_in"], z), [True, False])
        x = convolution(p["up_1"], doubled(blocks(p["level_1"], x, [True, True])))
        return out(p, blocks(p["level_0"], x, [False, False]))

    compared(Decoder(OPTIONS, 3), normal(2, 2, 3, 5), expected)


# ==== The deep-compression autoencoder ====


def rms_norm(p, x):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def unbiased(p):
    return {"bias": 0, **p}


def plain(p, x):
    h = np.maximum(convolution(p["conv_1"], x), 0)
    return x + rms_norm(p["norm"], convolution(unbiased(p["conv_2"]), h))


def linear(p, x):
    """Heads of 2 features; the pixels' own heads come first, then those of their neighbourhoods of side 3."""
    pixels = dense(p["qkv"], x)  # six heads: of each, the features of q, k and v
    near = depthwise(unbiased(p["near_0"]), pixels, "constant")
    kernel = p["mixed_0"]["kernel"][0, 0]  # [2, 12]: output j reads the two channels of its own group
    around = np.stack([near[..., j // 2 * 2 : j // 2 * 2 + 2] @ kernel[:, j] for j in range(12)], axis=-1)
    outputs = []
    for values in (pixels, around):
        for start in (0, 6):
            parts = values.reshape(-1, 12)[:, start : start + 6]
            q, k, v = np.maximum(parts[:, :2], 0), np.maximum(parts[:, 2:4], 0), parts[:, 4:]
            weights = q @ k.T
            outputs.append(weights @ v / (weights.sum(1, keepdims=True) + 1e-15))
    h = np.concatenate(outputs, axis=1).reshape(*x.shape[:2], -1)
    return x + rms_norm(p["norm"], dense(p["project"], h))


def gated(p, x):
    h = depthwise(p["near"], silu(dense(p["widen"], x)), "constant")
    return x + rms_norm(p["norm"], dense(p["project"], h[..., :16] * silu(h[..., 16:])))


def boxes(x):
    """[H, W, C] -> [H / 2, W / 2, 4 C]: of each channel the four pixels of a box, row by row."""
    corners = [x[i::2, j::2] for i in range(2) for j in range(2)]
    return np.stack(corners, axis=-1).reshape(*corners[0].shape[:2], -1)


def unboxed(x):
    """The inverse of `boxes`."""
    channels = x.shape[-1] // 4
    picture = np.zeros((2 * x.shape[0], 2 * x.shape[1], channels))
    for i in range(2):
        for j in range(2):
            picture[i::2, j::2] = x[..., 2 * i + j :: 4]
    return picture


def halved(shuffle, shortcut):
    def expected(p, x):
        h = boxes(convolution(p["conv"], x)) if shuffle else convolution(p["conv"], x, 2)
        means = (boxes(x)[..., ::2] + boxes(x)[..., 1::2]) / 2
        return h + means if shortcut else h

    return expected


def enlarged(shuffle, shortcut):
    def expected(p, x):
        h = unboxed(convolution(p["conv"], x)) if shuffle else convolution(p["conv"], doubled(x))
        return h + unboxed(x.repeat(2, axis=-1)) if shortcut else h

    return expected


LAYERS = {
    "plain": (deep_compression.PlainBlock("rms_norm", "relu", "float32"), plain),
    "linear attention": (deep_compression.LinearAttention(2, (3,), "rms_norm", "float32"), linear),
    "gated": (deep_compression.GatedConv("float32"), gated),
    "halve": (deep_compression.Halve(8, True, True, "float32"), halved(True, True)),
    "halve by strides": (deep_compression.Halve(8, False, False, "float32"), halved(False, False)),
    "double": (deep_compression.Double(2, True, True, "float32"), enlarged(True, True)),
    "double neighbours": (deep_compression.Double(2, False, True, "float32"), enlarged(False, True)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_deep_compression_is_its_equations(name):
    compared(LAYERS[name][0], normal(2, 4, 6, 4), LAYERS[name][1])
