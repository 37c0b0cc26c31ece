"""What a denoiser of clips sees of a first frame, by NumPy: clean, blurred, padded, or behind a mask."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import schedules
from diffusion.models.autoencoders.latent_space import Moments
from diffusion.parameterizations import Prediction
from diffusion.text_to_image import video_models

IMAGE = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 4, 6, 3)), jnp.float32)
VAE = types.SimpleNamespace(scale=0.5, shift=0.25, time_factor=4, factor=2, inverted=False)
LATENT = (np.asarray(IMAGE)[:, None, ::2, ::2] - 0.25) * 0.5


def encode(clip):
    """Every fourth frame from the first, every second pixel."""
    return clip[:, ::4, ::2, ::2]


def posterior(clip):
    return Moments(encode(clip), jnp.full_like(encode(clip), 3.0))


@pytest.mark.parametrize("encode", [encode, posterior])
def test_the_first_frame_is_encoded_alone_and_brought_to_the_scale_of_latents(encode):
    np.testing.assert_allclose(video_models.first_latent(VAE, encode, IMAGE), LATENT, rtol=1e-6)


@pytest.mark.parametrize("encode", [encode, posterior])
def test_a_padded_clip_has_zeros_behind_its_first_frame(encode):
    for inverted, times in ((False, 1), (True, 4)):  # divided by the scale, not multiplied
        vae = types.SimpleNamespace(**vars(VAE) | {"inverted": inverted})
        seen = video_models.padded(vae, encode, IMAGE, 3)
        assert seen.shape == (1, 3, 2, 3, 3)
        np.testing.assert_allclose(seen[:, :1], times * LATENT, rtol=1e-6)
        assert not np.any(seen[:, 1:])


@pytest.mark.parametrize("encode", [encode, posterior])
def test_a_given_frame_stands_behind_a_mask_that_says_so(encode):
    """One mask for each frame that a latent frame stands for; the others are the latents of grey frames."""
    seen = video_models.given(VAE, encode, IMAGE, 9)
    assert seen.shape == (1, 3, 2, 3, 4 + 3)
    np.testing.assert_array_equal(
        seen[..., :4], np.broadcast_to(np.array([1, 0, 0])[:, None, None, None], (1, 3, 2, 3, 4))
    )
    np.testing.assert_allclose(seen[:, :1, ..., 4:], LATENT, rtol=1e-6)
    np.testing.assert_allclose(seen[:, 1:, ..., 4:], -0.125)


def denoised(first, frames, **how):
    """(x_t, t) that the denoiser of the whole clip receives, of ones behind a first frame."""
    received = []

    def denoise(x, t):
        received.append((x, t))
        return Prediction(x, jnp.zeros_like(x))

    rest = jnp.ones((len(first), frames - 1, *first.shape[2:]))
    out = video_models.completed(denoise, schedules.rectified_flow(), first, frames, **how)(rest, 0.5)
    return *received[-1], out


def test_the_frames_behind_a_clean_one_see_it_at_time_zero():
    first = jnp.asarray(np.random.default_rng(1).normal(size=(2, 1, 2, 2, 3)), jnp.float32)
    x, t, out = denoised(first, 4)
    np.testing.assert_allclose(x[:, :1], first, rtol=1e-6)
    np.testing.assert_array_equal(x[:, 1:], 1)
    np.testing.assert_allclose(np.broadcast_to(t, (2, 4)), [[0, 0.5, 0.5, 0.5]] * 2, atol=1e-6)
    assert out.x0.shape == (2, 3, 2, 2, 3)


@pytest.mark.extended
def test_a_blurred_first_frame_has_noise_of_the_square_of_the_time():
    """Other noise for each clip, the same at the same time, and that of its own key whatever stands beside it."""
    first = jnp.zeros((2, 1, 16, 16, 3))
    keys = jax.random.split(jax.random.key(0), 2)
    x, *_ = denoised(first, 4, blur=0.4, keys=keys)
    noise = np.asarray(x[:, :1]) / (0.4 * 0.5**2)
    assert abs(noise.std() - 1) < 0.1 and abs(noise.mean()) < 0.1
    assert np.abs(noise[0] - noise[1]).mean() > 0.5
    alone, *_ = denoised(first[1:], 4, blur=0.4, keys=keys[1:])
    np.testing.assert_allclose(alone[:, :1], x[1:, :1], rtol=1e-6)
    again, *_ = denoised(first, 4, blur=0.4, keys=keys)
    np.testing.assert_array_equal(again, x)


def test_a_frame_of_latents_ends_with_the_last_of_its_group():
    """Of 9 frames in groups of (1, 4, 4) at 25 a second: after 0, 1 and 5 of them, by LTX-Video's code."""
    video = types.SimpleNamespace(rate=25.0)
    model = types.SimpleNamespace(modules={"vae": VAE}, kind=types.SimpleNamespace(video=video), denoiser=None)
    assert video_models.latent_frames(model, 9) == 3
    np.testing.assert_allclose(video_models.seconds(model, 9), np.array([0, 1, 5]) / 25, rtol=1e-6)


def test_latent_frames_fill_the_denoisers_first_patch():
    """Nine frames are three of the latent, and a fourth where a patch has two."""
    parts = lambda frames: types.SimpleNamespace(
        modules={"vae": types.SimpleNamespace(time_factor=4)}, denoiser=types.SimpleNamespace(frames=frames)
    )
    assert [video_models.latent_frames(parts(frames), 9) for frames in (1, 2, 3)] == [3, 4, 3]


def test_a_share_of_the_first_frame_is_in_the_noise_of_each():
    x, first = jnp.asarray([[[1.0], [3.0]]]), jnp.asarray([[[11.0]]])
    np.testing.assert_allclose(video_models.hinted(x, first, 0.25), [[[3.5], [5.0]]])
    assert video_models.hinted(x, first, 0.0) is x
