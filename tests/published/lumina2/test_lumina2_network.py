"""Lumina-Image 2 before and behind its layers, and the layers that refine text and picture, written out in numpy."""

import numpy as np

from diffusion.models.layers import sandwich_blocks
from diffusion.models.layers.rotary import axis_angles
from diffusion.published.lumina2 import Lumina2
from tests.models.dit_oracle import silu
from tests.published.equations import (
    close,
    dense,
    normal,
    normalised,
    one_layer,
    patches,
    rms,
    sandwich,
    timestep,
    without_layers,
)

EPSILON = 0.02  # so large that its place is seen
SHOWN = np.array([[True, True, True, True, False], [True, True, False, False, False]])


def test_before_and_behind_its_layers_the_network_is_its_equations(monkeypatch):
    """The clock of its authors is 1 - t, and a picture stands where its own text ends."""
    monkeypatch.setattr(sandwich_blocks, "scanned", one_layer)
    net = Lumina2(3, 24, 1, 1, 4, 2, 6, 7, (2, 2, 2), EPSILON)
    x, t, text = normal(2, 4, 6, 3), np.float32([0.3, 0.8]), normal(2, 5, 7)
    p, found, [(tokens, (c, angles, shown))] = without_layers(net, x, t, {"text": text, "text_mask": SHOWN})
    np.testing.assert_array_equal(shown, np.pad(SHOWN, ((0, 0), (0, 6)), constant_values=True))
    for b, length in enumerate((4, 2)):
        places = [(i, 0, 0) for i in range(5)] + [(length, row, column) for row in range(2) for column in range(3)]
        turns = axis_angles(np.array(places), (2, 2, 2))
        close(angles[b], turns)
        condition = silu(timestep(p["time"], 1 - t[b]))
        close(c[b], condition)
        words = dense(p["text_embedding"], p["text_norm"]["scale"] * rms(np.float64(text[b]), EPSILON))
        words = sandwich(p["text_refiners"], words, None, turns[:5], SHOWN[b], EPSILON)
        picture = dense(p["patch_embedding"], patches(np.float64(x[b])))
        picture = sandwich(p["picture_refiners"], picture, condition, turns[5:], None, EPSILON)
        close(tokens[b], np.concatenate([words, picture]))
        (scale,) = dense(p["final_modulation"]["dense"], condition)
        close(patches(found[b]), -dense(p["final"], normalised(picture, 1e-6) * (1 + scale)))


def test_a_layer_returns_for_caches_what_its_attention_reads_of_the_picture():
    x, c, dense_params = normal(2, 5, 8), normal(2, 3), {"kernel": normal(3, 4, 8), "bias": normal(4, 8)}
    block = sandwich_blocks.SandwichBlock(2, EPSILON, "auto", "float32", picture=3)
    norm = {"scale": normal(8)}
    params = {"modulation": {"dense": dense_params}, "attention_norm": norm}
    found, _ = block.apply({"params": params}, x, c, None, None, entering=True)
    for b in range(2):
        scale = dense(dense_params, np.float64(c[b]))[0]
        close(found[b], norm["scale"] * rms(np.float64(x[b, 2:]), EPSILON) * (1 + scale))
