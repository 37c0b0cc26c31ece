"""What an image prompt reads of a picture: tokens or the pooled vector of each encoder, at the encoder's size."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion.adapters import image_prompt, ip_adapter_files
from diffusion.adapters.instruct_pix2pix import instruct_pix2pix
from diffusion.models import interchange
from diffusion.models.image_encoders import prompt_features
from diffusion.models.image_encoders.dinov2 import DINOv2
from diffusion.models.image_encoders.image_features import ImageFeatures, PromptReading
from diffusion.models.image_encoders.siglip import SigLIP
from diffusion.models.interchange import folders
from diffusion.models.text_encoders.clip import CLIPVision, CLIPVisionProjection
from diffusion.published.flux import redux_prompt
from diffusion.published.flux.network import Flux
from diffusion.published.flux.redux import Redux

CLIP = CLIPVision(width=8, depth=2, heads=2, hidden=16, size=8, patch=4)


class Mean:
    """An encoder whose tokens are its picture's two halves, and whose pooled vector is the mean colour."""

    size, width = 8, 3

    def init(self, key, images):
        return {"params": {}}

    def apply(self, variables, images, **how):
        halves = images.reshape(len(images), 2, -1, 3).mean(2)
        return ImageFeatures(halves, images.mean((1, 2)))


def params_of(module, *inputs):
    """Random parameters of a module, without compiling how it begins."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape), jnp.float32), shapes)


def images(number=2, side=8):
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (number, side, side, 3)), jnp.float32)


def test_tokens_and_the_pooled_vector_of_any_encoder():
    x = images()
    np.testing.assert_allclose(
        prompt_features.image_features(Mean(), {}, x, whole=False), np.mean(x, (1, 2)), atol=1e-6
    )
    tokens = np.stack([np.mean(x[:, :4], (1, 2)), np.mean(x[:, 4:], (1, 2))], axis=1)
    np.testing.assert_allclose(prompt_features.image_features(Mean(), {}, x, whole=True), tokens, atol=1e-6)
    nothing = 2 * np.array([0.485, 0.456, 0.406]) - 1  # the mean colour of ImageNet
    np.testing.assert_allclose(prompt_features.absent(Mean(), {}, whole=True), [[nothing, nothing]], atol=1e-6)
    np.testing.assert_array_equal(prompt_features.absent(Mean(), {}, whole=False), np.zeros((1, 3)))


class Gained(Mean):
    """The same encoder with one parameter, a factor."""

    def init(self, key, images):
        return {"params": {"gain": jnp.float32(1)}}

    def apply(self, variables, images, **how):
        return jax.tree.map(lambda leaf: variables["params"]["gain"] * leaf, super().apply(variables, images))


class Read(Mean):
    """The same encoder with a reading of its own: 4 pixels, both sides resized, another mean, and inner tokens."""

    @property
    def prompt_reading(self):
        inner = lambda params, images: ImageFeatures(images[:, :1, :, 0], images[:, 0, 0])
        return PromptReading(4, 0, (0.25, 0.5, 0.75), 3, 2, lambda params, images: self.apply({}, images), inner)


def test_an_encoder_of_ones_own_says_how_it_reads_a_picture():
    encoder = Read()
    assert (prompt_features.side(encoder), prompt_features.width(encoder, True)) == (4, 3)
    assert prompt_features.width(encoder, False) == 2
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :8] = 255  # a quarter, all of which lies outside the middle square
    np.testing.assert_array_equal(prompt_features.fitted(encoder, picture)[:, 0, 0] > 0, True)
    assert prompt_features.resized(encoder, images(side=8)).shape == (2, 4, 4, 3)
    colour = [-0.5, 0.0, 0.5]
    np.testing.assert_allclose(prompt_features.absent(encoder, {}, whole=True), [[colour, colour]], atol=1e-6)
    assert prompt_features.absent(encoder, {}, whole=False).shape == (1, 2)
    x = images(side=4)
    np.testing.assert_array_equal(prompt_features.inner(encoder, {}, x), x[:, :1, :, 0])


@pytest.mark.extended
def test_no_picture_is_the_mean_colour_of_siglip_too():
    """Which is grey, 0 of -1 .. 1."""
    siglip = SigLIP(12, 1, 2, 8, size=16, patch=8)
    params = params_of(siglip, images(1, 16))
    grey = prompt_features.image_features(siglip, params, jnp.zeros((1, 16, 16, 3)), whole=True)
    np.testing.assert_allclose(prompt_features.absent(siglip, params, whole=True), grey, rtol=1e-6)


@pytest.mark.extended
def test_tokens_of_clip_are_those_before_its_last_layer():
    """With its projection too, whose pooled vector it is; the last layer's parameters change the pooled one alone."""
    projected = CLIPVisionProjection(CLIP, 6)
    x = images()
    params = params_of(projected, x)
    whole, pooled = (prompt_features.image_features(projected, params, x, whole=whole) for whole in (True, False))
    assert whole.shape == (2, 1 + 2 * 2, 8) and pooled.shape == (2, 6)
    assert prompt_features.width(projected, True) == 8 and prompt_features.width(projected, False) == 6
    last = jax.tree.map(lambda leaf: leaf.at[-1].mul(2.0) if leaf.shape[:1] == (2,) else leaf, params)
    np.testing.assert_array_equal(prompt_features.image_features(projected, last, x, whole=True), whole)
    assert np.abs(prompt_features.image_features(projected, last, x, whole=False) - pooled).max() > 1e-3


def test_images_come_to_the_size_of_the_encoder():
    x = images(side=8)
    assert prompt_features.resized(Mean(), x) is x
    constant = jnp.full((1, 20, 20, 3), 0.25)
    np.testing.assert_allclose(prompt_features.resized(Mean(), constant), np.full((1, 8, 8, 3), 0.25), atol=1e-6)
    edge = jnp.where(jnp.arange(20) < 10, -1.0, 1.0)
    small = prompt_features.resized(Mean(), jnp.broadcast_to(edge[None, :, None, None], (1, 20, 20, 3)))
    assert (small.min(), small.max()) == (-1, 1)  # a bicubic filter would overshoot
    white = prompt_features.fitted(Mean(), np.full((9, 12, 3), 255, np.uint8))
    np.testing.assert_array_equal(white, np.ones((8, 8, 3), np.float32))
    for shape in ((1, 8, 9, 3), (1, 9, 8, 3), (1, 20, 8, 3)):
        with pytest.raises(ValueError, match=f"square; got {shape[1]} x {shape[2]} pixels"):
            prompt_features.resized(Mean(), jnp.zeros(shape))
    assert prompt_features.side(CLIP) == 8 and prompt_features.side(SigLIP(12, 1, 2, 8, size=512, patch=16)) == 512
    assert prompt_features.side(types.SimpleNamespace(size=518, width=3)) == 224


def test_a_dropped_image_prompt_is_no_picture_and_one_of_few_features_is_one(monkeypatch):
    """Rows of zeros alone are replaced; a picture whose features are zero but for one stays as it is."""
    monkeypatch.setattr(folders, "find", lambda folder: types.SimpleNamespace(module=Gained()))
    monkeypatch.setattr(interchange, "load", lambda folder: (Gained(), {"gain": jnp.float32(3)}))
    monkeypatch.setattr(ip_adapter_files, "fresh", lambda *_, **how: None)
    monkeypatch.setattr(image_prompt.at_work, "prompt", lambda module, weights, features, weight: features)
    apply = lambda variables, x, clock, condition: variables["params"]["gain"] * condition["extra"][0]
    denoiser = types.SimpleNamespace(apply=apply)
    base = types.SimpleNamespace(
        denoiser=denoiser, kind=types.SimpleNamespace(denoiser=types.SimpleNamespace(folder="unet"))
    )
    tuning = image_prompt.ip_adapter(base, "folder", kind="plus")
    white, black = np.full((9, 12, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)
    seen = tuning.see([white, black])[image_prompt.ENTRY]
    np.testing.assert_allclose(seen, np.array([3, -3])[:, None, None] * np.ones((2, 2, 3)), atol=1e-6)
    features = np.zeros((3, 2, 3), np.float32)
    features[1, 1, 2] = 0.5
    features[2] = 1
    condition = {image_prompt.ENTRY: jnp.array(features)}
    applied = lambda gain: tuning.apply({"unet": {"gain": gain}}, {}, jnp.zeros((3, 4)), jnp.zeros(3), condition)
    extra, of_base = jax.jvp(applied, (jnp.float32(1),), (jnp.float32(1),))
    nothing = 3 * (2 * np.array([0.485, 0.456, 0.406]) - 1)
    np.testing.assert_allclose(extra, [[nothing, nothing], features[1], features[2]], atol=1e-5)
    np.testing.assert_array_equal(of_base, 0)  # the base is frozen


@pytest.mark.extended
def test_redux_reads_the_tokens_after_the_last_norm():
    encoder = SigLIP(width=12, depth=1, heads=2, hidden=8, size=14, patch=7)
    x = images(side=14)
    of = params_of(encoder, x)
    redux = Redux(12, 8)
    params = params_of(redux, jnp.zeros((1, 4, 12)))
    denoiser = Flux(4, 4, 24, 1, 1, 2, 8, 6, (4, 4, 4), strength=True)
    one = redux_prompt.attachment(redux, params, denoiser, encoder, of)
    tokens, none = one.encode(one.params, x)
    np.testing.assert_allclose(
        tokens, redux.apply({"params": params}, encoder.apply({"params": of}, x).patches), atol=1e-5
    )
    assert tokens.shape == (2, 4, 8)
    np.testing.assert_array_equal(none, np.zeros((2, 4, 8)))


def test_the_original_is_seen_without_the_scale_of_latents_and_a_dropped_one_is_zeros(monkeypatch):
    """Of latents (z - shift) scale, z; zeros stay zeros, which are no latents of a picture."""
    module = sys.modules[instruct_pix2pix.__module__]
    monkeypatch.setattr(module, "widened", lambda *arguments, **how: (*arguments, how))
    vae = types.SimpleNamespace(scale=0.5, shift=0.25)
    kind = types.SimpleNamespace(relatives=types.SimpleNamespace(edits="Editing"))
    base = types.SimpleNamespace(sees_picture=False, kind=kind, channels=4, modules={"vae": vae})
    _, pipeline, channels, seen, how = instruct_pix2pix(base)
    assert pipeline == "Editing" and channels == 4 and how["apart"] == ("captioned", "original")
    assert how["latents"] == how["reads"] == ("original",)
    z = np.random.default_rng(0).standard_normal((3, 2, 2, 4)).astype(np.float32)
    latents = (z - 0.25) * 0.5
    latents[1] = 0
    latents[2, 0, 0, 0] = 0  # one value is no picture's absence
    condition = {"original": jnp.asarray(latents), "tokens": 1}
    expected = np.stack([z[0], 0 * z[1], np.where(latents[2] == 0, 0.25, z[2])])
    np.testing.assert_allclose(seen({}, condition, None), expected, atol=1e-6)
    assert condition == {"tokens": 1}


def test_no_picture_is_of_the_mean_colour_of_the_encoders_training(monkeypatch):
    """The published means: of CLIP's pictures, and a half in each channel for SigLIP."""
    monkeypatch.setattr(prompt_features, "image_features", lambda encoder, params, colour, whole: colour)
    siglip = SigLIP(width=8, depth=1, heads=2, hidden=16, size=8, patch=4)
    for encoder, mean in ((siglip, (0.5, 0.5, 0.5)), (CLIP, (0.48145466, 0.4578275, 0.40821073))):
        colour = prompt_features.absent(encoder, {}, whole=True)
        assert colour.shape == (1, 8, 8, 3)
        np.testing.assert_allclose(colour, np.broadcast_to(2 * np.array(mean) - 1, colour.shape), atol=1e-6)


def test_a_smaller_picture_of_black_and_white_has_no_value_beyond_them():
    """Cubic interpolation swings over at edges."""
    edges = jnp.where(jnp.arange(20) % 7 < 3, 1.0, -1.0)[None, :, None, None] * jnp.ones((1, 20, 20, 3))
    found = prompt_features.resized(Mean(), edges)
    assert found.max() == 1 and found.min() == -1


@pytest.mark.extended
def test_tokens_before_the_last_layer_do_not_know_it():
    encoder = SigLIP(width=12, depth=2, heads=2, hidden=8, size=14, patch=7)
    x = images(side=14)
    params = params_of(encoder, x)
    last = jax.tree.map(lambda leaf: leaf.at[-1].mul(2.0) if leaf.shape[:1] == (2,) else leaf, params)
    before, after = (prompt_features.inner(encoder, one, x) for one in (params, last))
    assert before.shape == (2, 4, 12)
    np.testing.assert_array_equal(before, after)
    whole = [encoder.apply({"params": one}, x).patches for one in (params, last)]
    assert np.abs(whole[0] - whole[1]).max() > 1e-3


def test_dinov2_sees_the_middle_of_a_larger_picture():
    """Pillow brings the shorter side to 256 pixels, of which the middle 224 are read; the frame of 16 is not."""
    encoder = DINOv2(width=8, depth=1, heads=2, hidden=8, size=518, patch=14)
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    theirs = np.asarray(Image.fromarray(picture).resize((341, 256), Image.Resampling.BICUBIC))[16:240, 58:282]
    found = prompt_features.fitted(encoder, picture)
    np.testing.assert_allclose(found, theirs / np.float32(127.5) - 1, atol=1e-6)
    ramp = np.add.outer(np.linspace(40, 120, 300), np.linspace(0, 90, 300))
    square = np.broadcast_to(ramp[..., None], (300, 300, 3)).astype(np.uint8)
    inside = prompt_features.resized(encoder, jnp.asarray(square[None] / np.float32(127.5) - 1))[0]
    np.testing.assert_allclose(
        inside, prompt_features.fitted(encoder, square), atol=1.01 / 127.5
    )  # Pillow rounds twice
    assert prompt_features.resized(encoder, jnp.zeros((1, 224, 224, 3))).shape == (1, 224, 224, 3)


def test_siglip_sees_all_of_a_picture_and_clip_its_middle():
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :4] = 255  # a stripe that the middle square does not have
    siglip, middle = (
        prompt_features.fitted(encoder, picture) for encoder in (SigLIP(12, 1, 2, 8, size=8, patch=4), CLIP)
    )
    assert siglip.shape == middle.shape == (8, 8, 3)
    assert siglip[:, 0].min() > 0 and (middle == -1).all()
