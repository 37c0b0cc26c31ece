"""The configs of LTX-2's autoencoder of sounds and of its vocoder, what of them is refused, and their sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.interchange import Refusal
from diffusion.published.ltx2 import sound_autoencoder_table, vocoder_table
from diffusion.published.ltx2.sound_autoencoder import LTX2SoundAutoencoder
from diffusion.published.ltx2.vocoder import LTX2Vocoder

SMALL = LTX2SoundAutoencoder(4, (1, 2, 2), 1, 2, 1, 8)
VOCODER = LTX2Vocoder(8, 8, 1, (7, 4), (3, 2), (3,), ((1, 2),))


def test_the_defaults_are_diffusers():
    assert sound_autoencoder_table.CONFIG.build({}) == LTX2SoundAutoencoder()
    assert vocoder_table.CONFIG.build({}) == LTX2Vocoder()
    assert LTX2SoundAutoencoder().features == 128  # as many as the transformer's tokens have
    assert LTX2Vocoder().factor == 240  # 24,000 samples of 100 frames


@pytest.mark.parametrize(
    ("table", "field", "words"),
    [
        (sound_autoencoder_table, {"norm_type": "group"}, "norm_type = 'group' is not supported; supported: 'pixel'"),
        (sound_autoencoder_table, {"causality_axis": "width"}, "causality_axis = 'width' is not supported"),
        (sound_autoencoder_table, {"mid_block_add_attention": True}, "mid_block_add_attention = True is not supported"),
        (sound_autoencoder_table, {"attn_resolutions": [64]}, "attn_resolutions = .* is not supported"),
        (sound_autoencoder_table, {"ch_mult": [1, 2]}, r"multiples=\(1, 2\) must be 3 positive numbers"),
        (sound_autoencoder_table, {"mel_bins": 62}, "bands=62 must be a multiple of 4"),
        (vocoder_table, {"act_fn": "snakebeta"}, "act_fn = 'snakebeta' is not supported; supported: 'leaky_relu'"),
        (vocoder_table, {"final_act_fn": "clamp"}, "final_act_fn = 'clamp' is not supported; supported: 'tanh'"),
        (vocoder_table, {"upsample_factors": [6, 5, 2, 2]}, "must have one entry for each level"),
        (vocoder_table, {"upsample_factors": [5, 5, 2, 2, 2]}, "or an even number larger"),
        (vocoder_table, {"resnet_kernel_sizes": [3, 7]}, "must have one entry for each block"),
        (vocoder_table, {"hidden_channels": 1000}, r"2\^5 must divide width=1000"),
    ],
)
def test_another_value_is_refused(table, field, words):
    with pytest.raises(Refusal, match=words):
        table.CONFIG.build(field)


def test_a_files_statistics_are_of_a_tokens_features():
    with pytest.raises(ValueError, match="scale has 3 numbers, but a token 4 features"):
        SMALL.clone(scale=(1.0, 2.0, 3.0))


def test_sizes_of_latents_spectrograms_and_waveforms():
    """A frame has a latent, and each four behind it one more; a frame of the vocoder's input is six samples."""
    key = jax.random.key(0)
    shape = lambda module, x, method=None: jax.eval_shape(
        lambda: module.init_with_output(key, jnp.zeros(x), method=method)[0]
    )
    for frames, latents in ((1, 1), (5, 2), (8, 2), (9, 3)):
        assert shape(SMALL, (1, frames, 8, 1), "encode").mean.shape == (1, latents, 2, 2)
    assert shape(SMALL, (1, 3, 2, 2), "decode").shape == (1, 9, 8, 1)
    assert shape(VOCODER, (1, 5, 4, 2)).shape == (1, 30, 1)


def test_tokens_have_the_bands_of_a_channel_one_after_the_other():
    module = SMALL.clone(scale=(1.0, 2.0, 1.0, 1.0), shift=(0.0, 0.0, 0.0, 1.0))
    z = jnp.asarray([[[[1.0, 3.0], [2.0, 5.0]]]])  # two bands of two channels
    tokens = module.apply({}, z, method="tokens")
    np.testing.assert_array_equal(tokens, [[[1, 4, 3, 4]]])
    np.testing.assert_array_equal(module.apply({}, tokens, method="latents"), z)


@pytest.mark.parametrize(
    ("module", "shape", "method", "words"),
    [
        (SMALL, (1, 5, 8, 2), "encode", r"spectrograms must be \[B, T, 8, 1\]"),
        (SMALL, (1, 5, 8, 2), "decode", r"latents of sounds must be \[B, L, 2, 2\]"),
        (VOCODER, (1, 5, 4, 1), None, r"spectrograms must be \[B, T, M, C\] with M C = 8"),
    ],
)
def test_inputs_of_another_shape_are_refused(module, shape, method, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(shape), method=method))
