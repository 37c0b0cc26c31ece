"""Fields of the configs of Wan and of its autoencoder."""

import pytest

from diffusion.published.wan import autoencoder_table, table

LATENTS = {"z_dim": 2, "latents_mean": [0.5, -1.0], "latents_std": [4.0, 0.25]}


def test_latents_are_divided_by_their_standard_deviation_after_their_mean_is_subtracted():
    module = autoencoder_table.CONFIG.build(LATENTS)
    assert (module.latent_channels, module.scale, module.shift) == (2, (0.25, 4.0), (0.5, -1.0))
    described = autoencoder_table.CONFIG.describe(module)
    assert {name: described[name] for name in LATENTS} == LATENTS


@pytest.mark.parametrize(("outer", "decoder"), [(None, ()), (8, (8, 24, 16))])
def test_widths_are_multiples_of_one_number_and_the_decoders_of_another(outer, decoder):
    fields = {"is_residual": True, "base_dim": 4, "dim_mult": [1, 3, 2], "decoder_base_dim": outer}
    module = autoencoder_table.CONFIG.build(fields | {"temperal_downsample": [True, False]})
    assert (module.widths, module.decoder_widths) == ((4, 12, 8), decoder)


def test_learned_positions_of_pictures_are_nothing_without_pictures():
    """diffusers builds them as a part of the embedding of pictures, which `image_dim` asks for."""
    small = {"num_attention_heads": 1, "attention_head_dim": 8, "ffn_dim": 8, "num_layers": 1, "pos_embed_seq_len": 6}
    names = lambda **more: {row.ours for row in table.table(table.CONFIG.build(small | more), "diffusers")}
    assert not [name for name in names() if name.startswith("picture_embedding")]
    assert "picture_embedding/positions" in names(image_dim=4, added_kv_proj_dim=8)
