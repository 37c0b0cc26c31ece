"""The config of LTX-2's transformer in both directions, and what of it is refused."""

import pytest

from diffusion.models.interchange import Refusal
from diffusion.published.ltx2 import LTX2, table
from tests.published.ltx2.facts import SMALL


def test_the_defaults_are_diffusers():
    assert table.CONFIG.build({}) == LTX2()
    assert LTX2().text_widths == (3840, 3840)


def test_a_network_without_projections_has_texts_of_the_widths_of_its_tokens():
    config = table.CONFIG.describe(SMALL.clone(projected=False, gated=True, modulated=True, perturbed=True))
    assert (config["audio_attention_head_dim"], config["rope_type"], config["audio_gated_attn"]) == (8, "split", True)
    module = table.CONFIG.build(config)
    assert module.text_widths == (24, 16) and module.perturbed


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"ff_bias": False}, "ff_bias = False is not supported; supported: True"),
        ({"use_prompt_adaln_single": False}, "use_prompt_adaln_single = False is not supported; supported: True"),
        ({"use_keyframes_abs_pos_embedding": True}, "use_keyframes_abs_pos_embedding = True is not supported"),
        ({"gated_attn": True}, "audio_gated_attn = False is not supported; supported: True"),
        ({"audio_num_attention_heads": 16}, "audio_num_attention_heads = 16 is not supported; supported: 32"),
        ({"rope_double_precision": False}, "rope_double_precision = False is not supported; supported: True"),
        ({"audio_attention_head_dim": 63}, r"sound_width=2016 must be at least 4, and a multiple of 2 heads = 64"),
        ({"timestep_scale_multiplier": 1}, "timestep_scale_multiplier = 1 is not supported; supported: 1000"),
    ],
)
def test_another_value_is_refused(field, words):
    with pytest.raises(Refusal, match=words):
        table.CONFIG.build(field)
