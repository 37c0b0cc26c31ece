"""HunyuanVideo before and behind its layers, written out in numpy: with a first frame that is an image's."""

import numpy as np

from diffusion.models.layers.rotary import axis_angles
from diffusion.published.hunyuan_video.network import HunyuanVideo, TextRefiner
from tests.models.dit_oracle import silu
from tests.published.equations import (
    applied,
    attention,
    close,
    conditioning,
    dense,
    normal,
    normalised,
    out_of_heads,
    without_layers,
)

SHOWN = np.array([[True, False, True], [True, True, True]])


def refined(p, text, shown, t):
    """The words after one layer, whose gates depend on the time and the mean of the words that are shown."""
    c = conditioning(p["conditioning"], t, text[shown].mean(0))
    x, layer = dense(p["enter"], text), p["block_0"]
    norm = lambda name: normalised(x, 1e-6) * layer[name]["scale"] + layer[name]["bias"]
    gate, second = dense(layer["gates"]["dense"], c)
    q, k, v = np.moveaxis(dense(layer["attention"]["qkv"], norm("attention_norm")), 1, 0)
    x = x + gate * out_of_heads(layer["attention"]["out"], attention(q, k, v, shown))
    return x + second * dense(layer["out"], silu(dense(layer["hidden"], norm("mlp_norm"))))


def test_the_words_are_refined_by_their_equations():
    text, t = normal(2, 3, 5), np.float32([30, 800])
    p, found = applied(TextRefiner(8, 1, 2, "auto", "float32"), text, SHOWN, t)
    for b in range(2):
        close(found[b], refined(p, np.float64(text[b]), SHOWN[b], np.float64(t[b])))


def test_before_and_behind_its_layers_the_network_is_its_equations():
    """The tokens of the first frame have the time 0 and no strength; the time of all others is the last."""
    net = HunyuanVideo(3, 12, 1, 1, 1, 2, 5, 4, (2, 2, 2), image_condition="token_replace")
    x, t, text, pooled = normal(2, 2, 2, 4, 3), np.float32([[0, 0.3], [0, 0.8]]), normal(2, 3, 5), normal(2, 4)
    inputs = {"text": text, "text_mask": SHOWN, "pooled": pooled, "strength": np.float32([3.5, 6])}
    p, found, received = without_layers(net, x, t, inputs)
    ((video, words), (times, angles, joint)), (_, (single_times, _, single)) = received
    places = [(0, 0, 0)] * 3 + [(frame, 0, column) for frame in range(2) for column in range(2)]
    close(angles, axis_angles(np.array(places), (2, 2, 2), 256.0))
    np.testing.assert_array_equal(times.others, [True, True, False, False])
    np.testing.assert_array_equal(single_times.others, [*[False] * 3, True, True, False, False])
    for b in range(2):
        for entries in (joint, single):
            np.testing.assert_array_equal(entries["seen"][0, b], [*SHOWN[b], *[True] * 4])
        time, pooled_b = 1000 * np.float64(t[b, 1]), np.float64(pooled[b])
        close(words[b], refined(p["refiner"], np.float64(text[b]), SHOWN[b], time))
        h = dense(p["patch_embedding"], np.float64(x[b]).reshape(2, 2, 2, 2, 3).swapaxes(1, 2).reshape(4, 12))
        close(video[b], h)
        c = conditioning(p["conditioning"], time, pooled_b, 1000 * np.float64(inputs["strength"][b]))
        close(times.c[b], c, 1e-3)  # angles of thousands of radians in float32
        close(times.other[b], conditioning(p["conditioning"], 0.0, pooled_b))
        shift, scale = dense(p["final_modulation"]["dense"], c)
        pixels = dense(p["final"], normalised(h, 1e-6) * (1 + scale) + shift)
        close(found[b], pixels.reshape(2, 2, 2, 2, 3).swapaxes(1, 2).reshape(2, 2, 4, 3), 1e-3)
