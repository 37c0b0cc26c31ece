"""Stable Diffusion 3 before and behind its layers, written out in numpy."""

import numpy as np
import pytest

from diffusion.models.attachment import same_size_in_range, same_size_to_inpaint
from diffusion.published.stable_diffusion_3.control_net import MMDiTControlNet
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


@pytest.mark.parametrize(
    ("channels", "pooled", "shifted", "inpaints", "read"),
    [
        (3, True, True, False, same_size_in_range),
        (3, False, False, False, same_size_in_range),  # InstantX's, which were trained without the shift
        (4, False, True, True, same_size_to_inpaint),
        (4, True, True, True, same_size_to_inpaint),
    ],
)
def test_latents_of_a_control_net_are_shifted_where_its_pipeline_does(channels, pooled, shifted, inpaints, read):
    """A ControlNet that inpaints has a channel for the mask, and receives zeros for the pooled text."""
    base = MMDiT(3, 2, 2, 8, 4, 2, 5, 4)
    module, how = MMDiTControlNet(base, 2, channels, pooled=pooled).fitted(base)
    assert (how["latents"], how["shifted"], how["inpaints"], how["read"]) == (True, shifted, inpaints, read)
    assert module.pooled == (pooled and not inpaints)
