"""Stable Diffusion 3 before and behind its layers, written out in numpy."""

import numpy as np

from diffusion.published.stable_diffusion_3.network import MMDiT
from tests.published.equations import close, conditioning, dense, normal, normalised, patches, without_layers


def test_before_and_behind_its_layers_the_network_is_its_equations():
    """A picture has the middle of the table of positions; of two residuals for four layers the last layer adds none."""
    net = MMDiT(3, 2, 2, 8, 4, 2, 5, 4, positions=7, dual=2)
    x, t, text, pooled = normal(2, 4, 6, 3), np.float32([30, 800]), normal(2, 3, 5), normal(2, 4)
    residuals = normal(2, 6, 8), normal(2, 6, 8)
    p, found, received = without_layers(net, x, t, {"text": text, "pooled": pooled, "residuals": residuals})
    (image, words), (c, _, dual) = received[0]
    further = [inputs["residual"] for _, (_, _, inputs) in received]
    np.testing.assert_array_equal(dual["residual"], [residuals[0]] * 2)
    np.testing.assert_array_equal(further[1], [residuals[1]])
    np.testing.assert_array_equal(further[2], np.zeros((2, 6, 8)))
    for b in range(2):
        close(words[b], dense(p["text_embedding"], np.float64(text[b])))
        positions = p["positions_table"][2:4, 2:5].reshape(6, 8)
        h = dense(p["patch_embedding"], patches(np.float64(x[b]))) + positions
        close(image[b], h)
        condition = conditioning(p["conditioning"], np.float64(t[b]), np.float64(pooled[b]))
        close(c[b], condition)
        shift, scale = dense(p["final_modulation"]["dense"], condition)
        close(patches(found[b]), dense(p["final"], normalised(h, 1e-6) * (1 + scale) + shift))
