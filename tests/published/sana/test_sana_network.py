"""SANA before and behind its layers, written out in numpy, with every option."""

import numpy as np

from diffusion.published.sana.network import Sana, SanaBlock
from tests.models.dit_oracle import gelu, silu
from tests.published.equations import close, dense, normal, normalised, patches, rms, timestep, without_layers

SHOWN = np.array([[True, False, True], [True, True, True]])


def test_before_and_behind_its_layers_the_network_is_its_equations():
    """A tenth of the guidance is embedded beside the time; positions lie in [0, 3) along each side."""
    net = Sana(8, 3, 2, 8, 1, 2, 2, 5, qk_norm=True, strength=True, span=3.0)
    x, t, text, strength = normal(2, 4, 6, 3), np.float32([30, 800]), normal(2, 3, 5), np.float32([4.5, 1.5])
    inputs = {"text": text, "text_mask": SHOWN, "strength": strength}
    p, found, [(tokens, (c, words, bias, _))] = without_layers(net, x, t, inputs)
    np.testing.assert_array_equal(np.exp(bias).reshape(2, 3) > 0.5, SHOWN)
    places = np.array([[3 * row / 2, 3 * column / 3] for row in range(2) for column in range(3)])
    w = 10_000.0 ** (-np.arange(2) / 2)
    positions = np.concatenate([f(np.outer(place, w)) for place in places.T[::-1] for f in (np.sin, np.cos)], axis=1)
    for b in range(2):
        read = gelu(dense(p["text_hidden"], np.float64(text[b])))
        close(words[b], p["text_norm"]["scale"] * rms(dense(p["text_out"], read), 1e-5))
        h = dense(p["patch_embedding"], patches(np.float64(x[b]))) + positions
        close(tokens[b], h)
        embedding = timestep(p["timestep_embedding"], np.float64(t[b]))
        embedding = embedding + timestep(p["strength_embedding"], 0.1 * np.float64(strength[b]))
        close(c[b], dense(p["modulation"], silu(embedding)))
        shift, scale = embedding + p["final_table"]
        close(patches(found[b]), dense(p["final"], normalised(h, 1e-6) * (1 + scale) + shift))


def test_a_layer_returns_for_caches_what_its_attention_reads():
    x, c, table = normal(2, 6, 8), normal(2, 6, 8), normal(6, 8)
    block = SanaBlock(2, 3, 2, 2, 2.5, False, "auto", "float32")
    found, _ = block.apply({"params": {"table": table}}, x, c, x, None, {}, entering=True)
    for b in range(2):
        shift, scale, *_ = np.float64(c[b]) + table
        close(found[b], normalised(np.float64(x[b]), 1e-6) * (1 + scale) + shift)
