"""Wan before and behind its layers, written out in numpy: with pictures, and with the branch of VACE."""

import flax.linen as nn
import numpy as np

from diffusion.models.layers.rotary import axis_angles
from diffusion.published.wan import network
from diffusion.published.wan.network import Wan
from tests.models.dit_oracle import gelu, silu
from tests.published.equations import close, dense, exact_gelu, normal, normalised, timestep, without_layers


class Twice(nn.Module):
    """A layer of the branch that is small to trace: it adds a vector, and its hint is twice the tokens."""

    heads: int
    hidden: int
    text_norm: bool
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x, c, angles, text, pictures):
        x = x + self.param("step", nn.initializers.ones, x.shape[-1:])
        return x, 2 * x


def patches(x):
    """Squares of the frames of a clip [F, H, W, C], frame by frame."""
    frames, height, width, _ = x.shape
    return x.reshape(frames, height // 2, 2, width // 2, 2, -1).swapaxes(2, 3).reshape(frames * height * width // 4, -1)


def test_before_and_behind_its_layers_the_network_is_its_equations(monkeypatch):
    """Frames have times of their own. Layers 0 and 2 of three add hints, and layer 1 adds zeros."""
    monkeypatch.setattr(network, "WanControlBlock", Twice)
    net = Wan(2, 3, 16, 3, 2, 5, 6, 4, 3, control_layers=(0, 2), control_channels=2)
    x, t, text = normal(2, 2, 2, 6, 3), np.float32([[0, 400], [30, 800]]), normal(2, 3, 6)
    seen, control = normal(2, 3, 4), normal(2, 2, 2, 6, 2)
    inputs = {"text": text, "patches": seen, "control": control}
    p, found, [(tokens, (c, angles, words, pictures, hints, hint))] = without_layers(net, x, t, inputs)
    places = [(frame, 0, column) for frame in range(2) for column in range(3)]
    close(angles, axis_angles(np.array(places), (4, 2, 2)))
    np.testing.assert_array_equal(hint, [0, 2, 1])
    np.testing.assert_array_equal(hints[2], np.zeros((2, 6, 16)))
    for b in range(2):
        close(words[b], dense(p["text_out"], gelu(dense(p["text_hidden"], np.float64(text[b])))))
        of_pictures = p["picture_embedding"]
        norm = lambda name, x, p=of_pictures: normalised(x, 1e-5) * p[name]["scale"] + p[name]["bias"]
        read = norm("norm_in", np.float64(seen[b]) + of_pictures["positions"])
        close(pictures[b], norm("norm_out", dense(of_pictures["out"], exact_gelu(dense(of_pictures["hidden"], read)))))
        h = dense(p["patch_embedding"], patches(np.float64(x[b])))
        close(tokens[b], h)
        branch = dense(p["control_in"], dense(p["control_embedding"], patches(np.float64(control[b])))) + h
        steps = p["control_blocks"]["step"]
        close(hints[0][b], 2 * (branch + steps[0]))
        close(hints[1][b], 2 * (branch + steps[0] + steps[1]))
        embedding = np.array([timestep(p["time"], np.float64(one)) for one in t[b]])
        close(c[b], dense(p["modulation"], silu(embedding)))
        shift, scale = np.repeat(embedding[:, None] + p["final_table"], 3, axis=0).swapaxes(0, 1)
        close(patches(found[b]), dense(p["final"], normalised(h, 1e-6) * (1 + scale) + shift))
