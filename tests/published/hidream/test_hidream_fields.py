"""The config of HiDream-I1 in both directions, and what of it is refused."""

import pytest

from diffusion.models.interchange import Refusal
from diffusion.published.hidream import HiDream, table

PUBLISHED = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "caption_channels": [4096, 4096],
    "axes_dims_rope": [64, 32, 32],
    "llama_layers": [*range(32), *[31] * 16],
    "force_inference_output": False,
}


def test_the_defaults_are_the_published():
    assert table.CONFIG.build(PUBLISHED) == HiDream()
    assert HiDream().text_width == 33 * 4096


def test_a_text_holds_the_states_that_some_layer_reads():
    fields = {"num_layers": 1, "num_single_layers": 2, "llama_layers": [5, 1, 5], "caption_channels": [40, 8]}
    module = table.CONFIG.build(PUBLISHED | fields)
    assert (module.states, module.text_width) == ((1, 5), 40 + 2 * 8)
    assert table.CONFIG.build(table.CONFIG.describe(module)) == module


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"patch_size": None}, "the config has no patch_size"),
        ({"caption_channels": None}, "the config has no caption_channels"),
        ({"caption_channels": [4096]}, "caption_channels = .* Valid: a list of 2"),
        ({"llama_layers": None}, "the config has no llama_layers"),
        ({"llama_layers": [*range(49)]}, r"for each of depth \+ singles = 48 layers"),
        ({"axes_dims_rope": [32, 32]}, r"axes=\(32, 32\) must be 3 even numbers that sum to 128"),
        ({"num_activated_experts": 5}, "active=5 is more than experts=4"),
        ({"num_routed_experts": 0}, "num_routed_experts = 0. Valid: a whole number, at least 1"),
        ({"out_channels": 32}, "out_channels = 32 is not supported; supported: 16"),
    ],
)
def test_another_value_is_refused(field, words):
    with pytest.raises(Refusal, match=words):
        table.CONFIG.build(PUBLISHED | field)
