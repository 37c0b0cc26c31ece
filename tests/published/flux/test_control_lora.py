"""The network that a control LoRA of FLUX.1 needs: twice the channels, whose new ones change nothing at first."""

import numpy as np
import pytest

from diffusion.published.flux import Flux, control_lora
from diffusion.published.pixart import PixArt

SMALL = Flux(3, 3, 24, 1, 1, 2, 8, 6, (4, 4, 4))


def test_the_new_channels_of_a_widened_network_are_behind_the_old_ones_and_have_no_weight():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    kernel = draw(2 * 2 * 3, 24)
    module, params = control_lora.widened(SMALL, {"patch_embedding": {"kernel": kernel}, "other": 1})
    assert module == SMALL.clone(channels=6) and params["other"] == 1
    latents, hint = draw(2, 2, 3), draw(2, 2, 3)  # one patch
    both = np.concatenate([latents, hint], axis=-1).reshape(-1)
    np.testing.assert_allclose(both @ params["patch_embedding"]["kernel"], latents.reshape(-1) @ kernel, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "name", "inputs", "expected"),
    [
        (SMALL, "transformer.x_embedder.lora_A.weight", 24, True),  # 2 x 4 pixels x 3 channels
        (SMALL, "img_in.lora_down.weight", 24, True),
        (SMALL, "x_embedder.lora_A.weight", 12, False),
        (SMALL, "x_embedder.lora_B.weight", 24, False),
        (PixArt((8, 8, 3)), "x_embedder.lora_A.weight", 24, False),
    ],
)
def test_a_file_of_control_is_known_by_the_inputs_of_its_first_layer(module, name, inputs, expected):
    assert control_lora.is_control({name: (4, inputs)}, module) == expected
