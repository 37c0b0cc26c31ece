"""The configs of LTX-2's autoencoder of sounds and of its vocoder, what of them is refused, and their sizes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.interchange import Refusal
from diffusion.published.ltx2 import sound_autoencoder_table, vocoder, vocoder_table
from diffusion.published.ltx2.sound_autoencoder import LTX2SoundAutoencoder
from diffusion.published.ltx2.vocoder import LTX2Vocoder, LTX2WideVocoder

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
        (vocoder_table, {"act_fn": "snakebeta"}, "antialias = False is not supported; supported: True"),
        (vocoder_table, {"final_act_fn": "clamp"}, "final_act_fn = 'clamp' is not supported; supported: 'tanh', None"),
        (vocoder_table, {"act_fn": "snake"}, "act_fn = 'snake' is not supported; supported: 'leaky_relu', 'snakebeta'"),
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


def test_the_defaults_of_the_wide_vocoder_are_diffusers():
    module = vocoder_table.WIDE_CONFIG.build({})
    assert module == LTX2WideVocoder() and (module.sample_rate, module.factor) == (48000, 3)
    assert vocoder_table.WIDE_CONFIG.build(vocoder_table.WIDE_CONFIG.describe(module)) == module
    assert (
        module.vocoder.factor == 160 and module.extension.factor == 240
    )  # 16,000 samples of 100 frames, 48,000 of 200


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"output_sampling_rate": 44100}, "extension must make sample_rate=44100 a multiple of the vocoder's 16000"),
        ({"hop_length": 160}, "480 samples of a frame for hop=160; it makes 240"),
        ({"num_mel_channels": 80}, "extension must take bands=80 of 2 channels"),
        ({"filter_length": 64}, "window_length = 512 is not supported; supported: 64|hop=80 must be at most window=64"),
        ({"bwe_antialias": False}, "bwe_antialias = False is not supported; supported: True"),
    ],
)
def test_another_value_of_the_wide_vocoder_is_refused(field, words):
    with pytest.raises(Refusal, match=words):
        vocoder_table.WIDE_CONFIG.build(field | ({"window_length": 512} if "filter_length" in field else {}))


def test_filters_keep_a_slow_wave_and_end_a_fast_one():
    """A wave of eight samples at twice the rate has sixteen, where it was in between; one of two samples is lost."""
    slow, fast = (np.cos(2 * np.pi * np.arange(64) / period)[None, :, None] for period in (8, 2))
    taps = jnp.asarray(vocoder.low_pass(2, 12))
    twice = vocoder.lengthened(jnp.asarray(slow), taps, 2, 5)
    middle = slice(16, -16)
    expected = np.cos(2 * np.pi * (np.arange(128) - 0.5) / 16)
    np.testing.assert_allclose(twice[0, middle, 0], expected[middle], atol=0.02)
    assert np.abs(vocoder.shortened(jnp.asarray(fast), taps, 2)[0, 8:-8]).max() < 0.03
    resampled = vocoder.lengthened(
        jnp.asarray(slow), jnp.asarray(vocoder.resampling(3)[0]), 3, vocoder.resampling(3)[1]
    )
    np.testing.assert_allclose(resampled[0, 24:-24, 0], np.cos(2 * np.pi * np.arange(192) / 24)[24:-24], atol=0.02)


def test_a_snake_is_its_formula_between_filters_that_keep_what_is_constant():
    """x + sin^2(a x) / b, with a and b of each channel as logarithms."""
    params = {"alpha": np.log([2.0, 0.5]), "beta": np.log([3.0, 4.0])}
    params |= {name: vocoder.low_pass(2, vocoder.TAPS) for name in ("lengthen", "shorten")}
    x = np.broadcast_to(np.float32([0.7, -1.1]), (1, 40, 2))
    out = vocoder.Snake("float32").apply({"params": params}, jnp.asarray(x))
    a, b = np.array([2.0, 0.5]), np.array([3.0, 4.0])
    np.testing.assert_allclose(out, x + np.sin(a * x) ** 2 / b, atol=5e-3)
    changed = vocoder.Snake("float32").apply({"params": params | {"shorten": 2 * params["shorten"]}}, jnp.asarray(x))
    np.testing.assert_allclose(changed, 2 * out, rtol=1e-5)


class Given(nn.Module):
    """A vocoder whose waveform is its input."""

    waves, factor, sample_rate = 2, 6, 100

    @nn.compact
    def __call__(self, x):
        return x[..., 0]


class Seen(nn.Module):
    """An extension that adds nothing, and keeps what it sees."""

    waves, factor, features, sample_rate = 2, 12, 6, 300

    @nn.compact
    def __call__(self, x):
        self.sow("seen", "x", x)
        return jnp.zeros((len(x), x.shape[1] * self.factor, self.waves))


def test_the_extension_sees_the_log_mel_spectrogram_of_earlier_samples():
    """Restated frame by frame: of 18 samples and two zeros there are five frames, each four samples later."""
    rng = np.random.default_rng(0)
    module = LTX2WideVocoder(Given(), Seen(), 16, 4, 3)
    waveform = rng.uniform(-0.4, 0.4, (2, 18, 2)).astype(np.float32)
    waveform[1] *= 1e-5  # some of its levels are below the least, some are just above
    params = {"basis": rng.normal(size=(16, 18)), "inverse": np.zeros((16, 18)), "mel": rng.uniform(size=(9, 3))}
    params = {name: np.float32(value) for name, value in params.items()}
    out, seen = module.apply({"params": params}, waveform[..., None], mutable=["seen"])
    padded = np.pad(waveform, ((0, 0), (12, 2), (0, 0)))
    frames = np.stack([padded[:, 4 * i : 4 * i + 16] for i in range(5)], axis=1)
    parts = np.einsum("bfkc,kp->bfpc", frames, params["basis"])
    size = np.hypot(parts[:, :, :9], parts[:, :, 9:])
    expected = np.log(np.maximum(np.einsum("bfpc,pm->bfmc", size, params["mel"]), 1e-5))
    np.testing.assert_allclose(jax.tree.leaves(seen)[0], expected, rtol=1e-4, atol=1e-4)
    assert out.shape == (2, 54, 2)
