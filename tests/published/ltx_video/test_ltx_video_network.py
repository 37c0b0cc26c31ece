"""LTX-Video's layers and positions, and what is before and behind the layers, written out in numpy."""

import numpy as np

from diffusion.published.ltx_video.network import LTXBlock, LTXVideo, ltx_angles
from tests.models.dit_oracle import gelu, silu
from tests.published.equations import (
    applied,
    close,
    dense,
    normal,
    normalised,
    rms,
    timestep,
    wide_attention,
    without_layers,
)

SHOWN = np.array([[True, False, True], [True, True, True]])


def angles_of(seconds, row, column):
    """Of 14 features: the first pair does not turn, and three turn with each of two frequencies."""
    places = [seconds / 20, 32 * row / 2048, 32 * column / 2048]
    return [0, *(np.pi / 2 * turns * (2 * place - 1) for turns in (1, 10_000) for place in places)]


def test_a_layer_is_its_equations():
    """Two frames of three tokens each have other vectors."""
    x, c, text, angles = normal(2, 6, 8), normal(2, 2, 6, 8), normal(2, 3, 8), normal(2, 6, 4)
    bias = np.where(SHOWN, 0, -np.inf).astype(np.float32)[:, None, None]
    p, (found, _) = applied(LTXBlock(2, "auto", "float32"), x, c, text, bias, angles)
    for b in range(2):
        vectors = np.repeat(np.float64(c[b]) + p["table"], 3, axis=0)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = vectors.swapaxes(0, 1)
        h, words = np.float64(x[b]), np.float64(text[b])
        read = rms(h, 1e-6) * (1 + scale_a) + shift_a
        h = h + gate_a * wide_attention(p["attention"], read, read, angles[b], None, 1e-5)
        h = h + wide_attention(p["cross_attention"], h, words, None, SHOWN[b], 1e-5)
        hidden = gelu(dense(p["mlp"]["hidden"], rms(h, 1e-6) * (1 + scale_m) + shift_m))
        close(found[b], h + gate_m * dense(p["mlp"]["out"], hidden))


def test_positions_are_parts_of_twenty_seconds_and_of_two_thousand_pixels():
    seconds = np.float32([[0, 0.5], [1, 3]])
    found = np.asarray(ltx_angles(seconds, 2, 3, 14))
    expected = [[angles_of(s, i, j) for s in row for i in range(2) for j in range(3)] for row in seconds]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_before_and_behind_its_layers_the_network_is_its_equations():
    """Frames have times of their own, and stand 8 / rate seconds apart."""
    net = LTXVideo(3, 14, 1, 1, 5)
    x, t, text = normal(2, 2, 1, 3, 3), np.float32([[0, 400], [0, 90]]), normal(2, 3, 5)
    inputs = {"text": text, "text_mask": SHOWN, "rate": np.float32([10, 16])}
    p, found, [(tokens, (c, words, bias, angles))] = without_layers(net, x, t, inputs)
    np.testing.assert_array_equal(np.exp(bias).reshape(2, 3) > 0.5, SHOWN)
    for b, rate in enumerate((10, 16)):
        turns = [angles_of(8 * f / rate, 0, column) for f in range(2) for column in range(3)]
        np.testing.assert_allclose(angles[b], turns, rtol=1e-6, atol=1e-6)
        close(words[b], dense(p["text_out"], gelu(dense(p["text_hidden"], np.float64(text[b])))))
        h = dense(p["patch_embedding"], np.float64(x[b]).reshape(6, 3))
        close(tokens[b], h)
        embedding = np.array([timestep(p["timestep_embedding"], np.float64(one)) for one in t[b]])
        close(c[b], dense(p["modulation"], silu(embedding)))
        shift, scale = np.repeat(embedding[:, None] + p["final_table"], 3, axis=0).swapaxes(0, 1)
        close(found[b].reshape(6, 3), dense(p["final"], normalised(h, 1e-6) * (1 + scale) + shift))
