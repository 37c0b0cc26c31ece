"""Z-Image before and behind its layers, and the layers that refine text and picture, written out in numpy."""

import numpy as np

from diffusion.models.layers import sandwich_blocks
from diffusion.models.layers.rotary import axis_angles
from diffusion.published.z_image import ZImage
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
WORDS = (3, 33)  # of 34 tokens, which become 64; the first text has 32 tokens with its padding


def test_before_and_behind_its_layers_the_network_is_its_equations(monkeypatch):
    """Learned tokens pad text and picture; the text begins at 1, and the picture follows its own text's padding."""
    monkeypatch.setattr(sandwich_blocks, "scanned", one_layer)
    net = ZImage(3, 12, 1, 1, 2, 7, (2, 2, 2), 100.0, EPSILON)
    x, t, text = normal(2, 4, 6, 3), np.float32([0.3, 0.8]), normal(2, 34, 7)
    mask = np.arange(34) < np.array(WORDS)[:, None]
    p, found, [(tokens, (c, angles, shown))] = without_layers(net, x, t, {"text": text, "text_mask": mask})
    for b, length in enumerate((32, 64)):
        np.testing.assert_array_equal(shown[b], [*(np.arange(64) < length), *[True] * 32])
        places = [(1 + i, 0, 0) for i in range(64)] + [(0, 0, 0)] * 26
        places += [(length + 1, row, column) for row in range(2) for column in range(3)]
        turns = axis_angles(np.array(places), (2, 2, 2), 100.0)
        close(angles[b], turns)
        condition = timestep(p["time"], 1000 * (1 - np.float64(t[b])))
        close(c[b], condition)
        words = dense(p["text_embedding"], p["text_norm"]["scale"] * rms(np.float64(text[b, : WORDS[b]]), EPSILON))
        words = np.concatenate([words, np.tile(p["text_padding"], (64 - WORDS[b], 1))])
        words = sandwich(p["text_refiners"], words, None, turns[:64], shown[b, :64], EPSILON)
        picture = dense(p["patch_embedding"], patches(np.float64(x[b])))
        picture = np.concatenate([np.tile(p["picture_padding"], (26, 1)), picture])
        picture = sandwich(p["picture_refiners"], picture, condition, turns[64:], None, EPSILON)
        close(tokens[b], np.concatenate([words, picture]))
        (scale,) = dense(p["final_modulation"]["dense"], silu(condition))
        close(patches(found[b]), -dense(p["final"], normalised(picture[26:], 1e-6) * (1 + scale)))
