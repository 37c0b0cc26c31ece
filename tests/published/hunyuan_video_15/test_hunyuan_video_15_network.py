"""HunyuanVideo 1.5 before and behind its layers, written out in numpy."""

import numpy as np
import pytest

from diffusion.models.layers.rotary import axis_angles
from diffusion.published.hunyuan_video_15 import network
from diffusion.published.hunyuan_video_15.network import HunyuanVideo15
from tests.models.dit_oracle import silu
from tests.published.equations import close, dense, exact_gelu, normal, normalised, timestep, without_layers
from tests.published.hunyuan_video.test_hunyuan_video_network import refined

SHOWN = np.array([[True, False, True], [True, True, True]])
QUOTED = np.array([[True, True], [False, False]])


def norm(p, x):
    return normalised(x, 1e-5) * p["scale"] + p["bias"]


@pytest.mark.parametrize("from_image", [False, True])
def test_before_and_behind_its_layers_the_network_is_its_equations(from_image, monkeypatch):
    """Patches of an image, words in quotes and the text each have a vector of their kind, and stand in this order."""
    monkeypatch.setattr(network, "GLYPH_HIDDEN", 7)
    net = HunyuanVideo15(2, 12, 1, 1, 2, 5, 4, 3, (2, 2, 2), from_image)
    x, t = normal(2, 2, 1, 3, 5 if from_image else 2), np.float32([0.3, 0.8])
    inputs = {"text": normal(2, 3, 5), "text_mask": SHOWN, "glyphs": normal(2, 2, 4), "glyph_mask": QUOTED}
    inputs |= {"patches": normal(2, 4, 3)} if from_image else {}
    p, found, [((clip, others), (c, angles, per_layer))] = without_layers(net, x, t, inputs)
    before = 4 * from_image + 5
    places = [(0, 0, 0)] * before + [(frame, 0, column) for frame in range(2) for column in range(3)]
    close(angles, axis_angles(np.array(places), (2, 2, 2), 256.0))
    for b in range(2):
        seen = [*[True] * 4 * from_image, *QUOTED[b], *SHOWN[b], *[True] * 6]
        np.testing.assert_array_equal(per_layer["seen"][0, b], seen)
        time = 1000 * np.float64(t[b])
        quoted, parts = norm(p["glyph_embedding"]["norm"], np.float64(inputs["glyphs"][b])), []
        for name in ("hidden_0", "hidden_1"):
            quoted = exact_gelu(dense(p["glyph_embedding"][name], quoted))
        if from_image:
            picture = p["picture_embedding"]
            seen = norm(picture["norm_in"], np.float64(inputs["patches"][b]))
            seen = dense(picture["out"], exact_gelu(dense(picture["hidden"], seen)))
            parts.append(norm(picture["norm_out"], seen) + p["kinds"][2])
        parts.append(dense(p["glyph_embedding"]["out"], quoted) + p["kinds"][1])
        parts.append(refined(p["refiner"], np.float64(inputs["text"][b]), SHOWN[b], time) + p["kinds"][0])
        close(others[b], np.concatenate(parts))
        pixels = np.float64(x[b]).reshape(6, -1)
        h = dense(p["patch_embedding"], np.pad(pixels, [(0, 0), (0, 5 - pixels.shape[1])]))
        close(clip[b], h)
        condition = silu(timestep(p["time"], time))
        close(c[b], condition)
        shift, scale = dense(p["final_modulation"]["dense"], condition)
        close(found[b].reshape(6, 2), dense(p["final"], normalised(h, 1e-6) * (1 + scale) + shift))
