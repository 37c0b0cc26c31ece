"""The config of LTX-2's autoencoder of clips in both directions, what is refused, and the edges that it mirrors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from diffusion.models.autoencoders.edge_convolution import EdgeConv
from diffusion.models.interchange import Refusal, families
from diffusion.published.ltx2 import autoencoder_table

STATED = {"decoder_causal": False}


def test_the_published_config_is_ltx_videos_autoencoder_with_mirrored_edges():
    module = autoencoder_table.CONFIG.build(STATED)
    assert module.widths == (128, 256, 512, 1024, 2048) and module.reflects and not module.timed
    assert (module.factor, module.time_factor) == (32, 8)
    assert autoencoder_table.CONFIG.build(autoencoder_table.CONFIG.describe(module)) == module


def test_the_two_autoencoders_of_one_class_have_each_their_name():
    module = autoencoder_table.CONFIG.build(STATED)
    assert families.family_of(module).name == "AutoencoderKLLTX2Video"
    assert families.family_of(module.clone(reflects=False)).name == "AutoencoderKLLTXVideo"


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"decoder_causal": True}, "decoder_causal = True is not supported; supported: False"),
        ({"decoder_spatial_padding_mode": "replicate"}, "decoder_spatial_padding_mode = 'replicate' is not supported"),
        ({"decoder_spatio_temporal_scaling": [True, True, False]}, "each level of the decoder must double its sides"),
        ({"upsample_type": ["spatial"] * 2}, "each level of the decoder must double its sides"),
        ({"upsample_type": ["spatial", "temporal", "diagonal"]}, "doubling"),
        ({"spatio_temporal_scaling": [True, True, True, False]}, "must have one entry for each level"),
        ({"spatial_compression_ratio": 16}, "spatial_compression_ratio = 16 is not supported; supported: 32"),
    ],
)
def test_another_value_is_refused(field, words):
    with pytest.raises(Refusal, match=words):
        autoencoder_table.CONFIG.build(STATED | field)


def test_levels_that_double_the_frames_or_the_sides_alone():
    """Their config names them from the latents' side on, ours from the picture's."""
    stated = STATED | {
        "decoder_block_out_channels": [256, 512, 512, 1024], "decoder_layers_per_block": [4, 6, 4, 2, 2],
        "decoder_spatio_temporal_scaling": [True] * 4, "decoder_inject_noise": [False] * 5,
        "upsample_type": ["spatiotemporal", "spatiotemporal", "temporal", "spatial"],
        "upsample_residual": [False] * 4, "upsample_factor": [2, 2, 1, 2], "decoder_spatial_padding_mode": "zeros",
    }  # fmt: skip
    module = autoencoder_table.CONFIG.build(stated)
    assert module.doubling == ("spatial", "temporal", "spatiotemporal", "spatiotemporal") and not module.reflects
    assert module.strides[:2] == ((1, 2, 2), (2, 1, 1))
    assert autoencoder_table.CONFIG.build(autoencoder_table.CONFIG.describe(module)) == module
    assert families.family_of(module).name == "AutoencoderKLLTX2Video"


def test_rows_and_columns_beyond_the_edge_are_those_before_it():
    """A kernel that takes the pixel to the lower right: 4 and 5 for a picture of [1 2 3; 4 5 6], and mirrored."""
    x = jnp.arange(1.0, 7.0).reshape(1, 1, 2, 3, 1)
    params = {"kernel": np.zeros((3, 3, 3, 1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    params["kernel"][2, 2, 2] = 1
    out = EdgeConv(1, reflects=True).apply({"params": params}, x)
    np.testing.assert_array_equal(out.reshape(2, 3), [[5, 6, 5], [2, 3, 2]])


def test_latents_of_one_row_have_no_pixels_to_mirror():
    module = AutoencoderKLLTX((4, 8), (1, 1), ("spatiotemporal",), (4,), (1, 1), (True,), (1,), (False,), (False,) * 2,
                              latent_channels=2, reflects=True)  # fmt: skip
    with pytest.raises(ValueError, match=r"latents must have two on a side; got \(1, 2, 1, 3, 2\)"):
        jax.eval_shape(lambda z: module.init(jax.random.key(0), z, method="decode"), jnp.ones((1, 2, 1, 3, 2)))
