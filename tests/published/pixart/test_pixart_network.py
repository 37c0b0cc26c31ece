"""PixArt before and behind its layers, written out in numpy: with a size, and with a strength of guidance."""

import numpy as np
import pytest

from diffusion.published.pixart import pipeline
from diffusion.published.pixart.network import PixArt
from tests.models.dit_oracle import gelu, silu
from tests.published.equations import close, dense, normal, normalised, patches, timestep, without_layers


@pytest.mark.parametrize("option", ["sized", "strength"])
def test_before_and_behind_its_layers_the_network_is_its_equations(option):
    """The size is the original height and width, and the ratio of the requested sides; positions lie in [0, 5)."""
    net = PixArt((4, 4, 3), 2, 12, 1, 2, 5, learn_sigma=option == "sized", **{option: True}, span=5.0)
    x, t, text = normal(2, 4, 6, 3), np.float32([30, 800]), normal(2, 3, 5)
    size = np.float32([[512, 768, 3, 4, 2, 5], [64, 9, 1, 2, 7, 4]])
    strength = np.float32([4.5, 1.5])
    inputs = {"text": text} | ({"size": size} if option == "sized" else {"strength": strength})
    p, found, [(tokens, (c, words, *_))] = without_layers(net, x, t, inputs)
    places = np.array([[5 * row / 2, 5 * column / 3] for row in range(2) for column in range(3)])
    w = 10_000.0 ** (-np.arange(3) / 3)
    positions = np.concatenate([f(np.outer(place, w)) for place in places.T[::-1] for f in (np.sin, np.cos)], axis=1)
    for b in range(2):
        close(words[b], dense(p["text_out"], gelu(dense(p["text_hidden"], np.float64(text[b])))))
        h = dense(p["patch_embedding"], patches(np.float64(x[b]))) + positions
        close(tokens[b], h)
        embedding = timestep(p["timestep_embedding"], np.float64(t[b]))
        if option == "sized":
            thirds = [timestep(p["original_embedding"], np.float64(side)) for side in size[b, :2]]
            ratio = np.float64(size[b, 4] / size[b, 5])
            embedding = embedding + np.concatenate([*thirds, timestep(p["ratio_embedding"], ratio)])
        else:
            embedding = embedding + timestep(p["strength_embedding"], 1000 * (np.float64(strength[b]) - 1))
        close(c[b], dense(p["modulation"], silu(embedding)))
        shift, scale = embedding + p["final_table"]
        close(patches(found[b]), dense(p["final"], normalised(h, 1e-6) * (1 + scale) + shift))


def test_the_perturbed_layers_are_those_whose_number_begins_with_one():
    """diffusers reads "blocks.1" as the beginning of a name."""
    np.testing.assert_array_equal(np.flatnonzero(pipeline.perturbed_layers(PixArt())), [1, *range(10, 20)])
