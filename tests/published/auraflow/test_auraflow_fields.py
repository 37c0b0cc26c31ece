"""The config of AuraFlow in both directions, and what of it is refused."""

import pytest

from diffusion.models.interchange import Refusal
from diffusion.published.auraflow import AuraFlow, table


def test_the_defaults_are_diffusers():
    assert table.CONFIG.build({}) == AuraFlow()


def test_a_config_has_every_field_of_the_published_one_but_the_side_of_pictures():
    """transformer/config.json of AuraFlow 0.3, whose sample_size no field of the network depends on."""
    published = {
        "attention_head_dim": 256, "caption_projection_dim": 3072, "in_channels": 4, "joint_attention_dim": 2048,
        "num_attention_heads": 12, "num_mmdit_layers": 4, "num_single_dit_layers": 32, "out_channels": 4,
        "patch_size": 2, "pos_embed_max_size": 9216,
    }  # fmt: skip
    assert table.CONFIG.describe(AuraFlow(positions=96)) == published
    assert table.CONFIG.build(published | {"sample_size": 64}) == AuraFlow(positions=96)
    assert published["pos_embed_max_size"] in [one["pos_embed_max_size"] for one in table.FAMILY.published.values()]


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"out_channels": 8}, "out_channels = 8 is not supported; supported: 4"),
        ({"caption_projection_dim": 1152}, "caption_projection_dim = 1152 is not supported; supported: 3072"),
        ({"num_attention_heads": 6}, "caption_projection_dim = 3072 is not supported; supported: 1536"),
        ({"pos_embed_max_size": 1000}, "pos_embed_max_size = 1000 is not supported; supported: squares"),
        ({"num_mmdit_layers": 0}, "depth=0 must be positive"),
        ({"unheard": 1}, "sets unheard = 1, which this version does not know"),
    ],
)
def test_another_value_is_refused(field, words):
    with pytest.raises(Refusal, match=words):
        table.CONFIG.build(field)


def test_halves_of_a_layer_are_in_the_order_of_each_layout():
    """diffusers puts the scale first in norm_out, the original the shift; SwiGLU's gate is linear_1 and c_fc1."""
    parts = lambda layout: {(row.theirs, row.rows): row.at for row in table.table(AuraFlow(width=12), layout)}
    theirs, original = parts("diffusers"), parts("original")
    assert theirs["norm_out.linear.weight", (0, 12)] == (slice(None), 1)
    assert theirs["norm_out.linear.weight", (12, 24)] == (slice(None), 0)
    assert original["modF.1.weight", None] == ()
    theirs_of = {row.ours: row.theirs for row in table.table(AuraFlow(width=12, depth=1, singles=1), "original")}
    out = "attention/out/kernel"
    assert theirs_of[f"blocks/text/{out}"] == "double_layers.0.attn.w1o.weight"
    assert theirs_of[f"blocks/image/{out}"] == "double_layers.0.attn.w2o.weight"
    assert theirs_of[f"single_blocks/tokens/{out}"] == "single_layers.0.attn.w1o.weight"
    gates = "single_transformer_blocks.3.ff.linear_{}.weight", "single_layers.3.mlp.c_fc{}.weight"
    for layout, name in zip((theirs, original), gates):
        assert [layout[name.format(i), None] for i in (1, 2)] == [(3, slice(None), 0), (3, slice(None), 1)]
