"""The layers of Krea 2, and what is before and behind them, written out in numpy."""

import numpy as np

from diffusion.models.layers.rotary import axis_angles
from diffusion.published.krea2 import network
from diffusion.published.krea2.network import Krea2, Krea2Block
from tests.models.dit_oracle import gelu
from tests.published.equations import (
    applied,
    attention,
    close,
    dense,
    normal,
    one_layer,
    out_of_heads,
    patches,
    rms,
    swiglu,
    turned,
    wave,
    without_layers,
)

EPSILON = 0.02  # so large that its place is seen
SHOWN = np.array([[True, False, True, True, True], [True, True, True, True, True]])


def norm(p, x):
    return (1 + p["scale"]) * rms(x, EPSILON)


def gated(p, x, angles, shown):
    """Attention whose output is gated by its input."""
    key, value = np.moveaxis(dense(p["key_value"], x), 1, 0)
    q, k = norm(p["query_norm"], dense(p["query"], x)), norm(p["key_norm"], key)
    if angles is not None:
        q, k = turned(q, angles), turned(k, angles)
    mixed = attention(q, k, value, shown)
    return out_of_heads(p["out"], mixed / (1 + np.exp(-dense(p["gate"], x).reshape(mixed.shape))))


def text_layer(p, x, shown=None):
    x = x + gated(p["attention"], norm(p["attention_norm"], x), None, shown)
    return x + swiglu(p["mlp"], norm(p["mlp_norm"], x))


def test_a_layer_is_its_equations():
    x, c, angles = normal(2, 5, 8), normal(2, 6, 8), normal(5, 1)
    block = Krea2Block(3, 6, 4, 2, EPSILON, "auto", "float32")
    p, (found, _) = applied(block, x, c, angles, SHOWN)
    for b in range(2):
        scale_a, shift_a, gate_a, scale_m, shift_m, gate_m = np.float64(c[b]) + p["table"]
        expected = np.float64(x[b])
        read = (1 + scale_a) * norm(p["attention_norm"], expected) + shift_a
        expected = expected + gate_a * gated(p["attention"], read, angles, SHOWN[b])
        read = (1 + scale_m) * norm(p["mlp_norm"], expected) + shift_m
        close(found[b], expected + gate_m * swiglu(p["mlp"], read))
        entered = block.apply({"params": p}, x, c, angles, SHOWN, entering=True)[0]
        close(entered[b], ((1 + scale_a) * norm(p["attention_norm"], np.float64(x[b])) + shift_a)[2:])


def test_before_and_behind_its_layers_the_network_is_its_equations(monkeypatch):
    """The states of a token attend to each other and are summed with weights; then tokens of the text attend."""
    monkeypatch.setattr(network, "scanned", one_layer)
    net = Krea2(3, 12, 1, 2, 1, 6, 12, 3, 2, 1, 5, 1, 1, (2, 2, 2), EPSILON)
    x, t, text = normal(2, 4, 6, 3), np.float32([0.3, 0.8]), normal(2, 5, 12)
    p, found, [(tokens, (c, angles, shown))] = without_layers(net, x, t, {"text": text, "text_mask": SHOWN})
    np.testing.assert_array_equal(shown, np.pad(SHOWN, ((0, 0), (0, 6)), constant_values=True))
    places = [(0, 0, 0)] * 5 + [(0, row, column) for row in range(2) for column in range(3)]
    close(angles, axis_angles(np.array(places), (2, 2, 2), 1000.0))
    for b in range(2):
        states = np.float64(text[b]).reshape(5, 3, 4)
        states = np.array([text_layer(p["state_blocks"], token) for token in states])
        words = text_layer(
            p["text_blocks"], np.einsum("mse,s->me", states, p["state_weights"]["kernel"][:, 0]), SHOWN[b]
        )
        words = dense(p["text_out"], gelu(dense(p["text_hidden"], norm(p["text_norm"], words))))
        picture = dense(p["patch_embedding"], patches(np.float64(x[b])))
        close(tokens[b], np.concatenate([words, picture]))
        hidden = dense(p["time_hidden"], wave(1000 * t[b]))
        embedding = dense(p["time_out"], gelu(hidden))
        close(c[b], dense(p["modulation"], gelu(embedding)))
        scale, shift = embedding + p["final_table"]
        expected = dense(p["final"], norm(p["final_norm"], picture) * (1 + scale) + shift)
        close(np.array(patches(found[b])), expected)
