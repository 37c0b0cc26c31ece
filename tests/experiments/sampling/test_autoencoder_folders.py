"""Which folders are autoencoders, and where their pictures are computed."""

import jax
import numpy as np
import pytest

from diffusion.data.sources import DataSpec
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.autoencoders.latent_space import Moments
from diffusion.models.dit import DiT
from diffusion.recipe import ConfigError


def test_a_network_that_does_not_encode_is_refused(monkeypatch):
    found = {
        "kl": AutoencoderKL(widths=(4,), layers=1, groups=2),
        "dit": DiT(patch=2, num_classes=0, width=8, depth=1, heads=2),
    }
    params = {"conv": {"kernel": np.ones((1, 2))}}
    monkeypatch.setattr(autoencoder_folders.interchange, "load", lambda path: (found[path], params))
    loaded = autoencoder_folders.load("kl")
    assert loaded.module is found["kl"] and loaded.params is params and loaded.path == "kl"
    with pytest.raises(ConfigError, match=r"dit is a DiT, which does not encode pictures. Valid: .* AutoencoderKL,"):
        autoencoder_folders.load("dit")


class Module:
    """Halves pictures, as moments or as latents alone."""

    picture_channels, scale, shift = 3, 0.5, (1.0, 2.0)

    def __init__(self, moments):
        self.moments = moments

    def apply(self, variables, x, method):
        latents = x[:, ::2, ::2, :2]
        return Moments(latents, latents) if self.moments else latents


def test_a_cache_is_described_by_what_the_encoder_returns():
    spec = DataSpec("few", "train", (8, 6, 1), 0, 4, "1.0.0")
    for moments, flip in ((True, False), (False, True)):
        autoencoder = autoencoder_folders.Autoencoder("", Module(moments), {}, {"sha256": "digest"})
        about = autoencoder_folders.describe_cache(autoencoder, spec, flip)
        assert (about.shape, about.kind) == ((4, 3, 2), "moments" if moments else "mean")
        assert (about.scale, about.shift, about.dtype) == (0.5, (1.0, 2.0), "float32")
        assert about.views == (("plain", "flipped") if flip else ("plain",))
        assert about.autoencoder == {"sha256": "digest"} and about.dataset["name"] == "few"


def test_a_digest_tells_names_and_shapes_apart_but_not_where_parameters_are_stored():
    ones = np.ones((2, 3), np.float32)
    digest = lambda **params: autoencoder_folders.digest({"layer": params})
    assert digest(a=ones) == digest(a=ones.astype(np.float16)) == digest(a=np.asfortranarray(ones))
    assert len({digest(a=ones), digest(b=ones), digest(a=ones.T), digest(a=2 * ones), digest(a=ones, b=ones)}) == 5


def test_one_channel_is_repeated_for_three_and_for_no_other_number():
    grey = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(autoencoder_folders.channels(grey, 3), np.concatenate([grey] * 3, -1))
    assert autoencoder_folders.channels(grey, 1) is grey
    for pictures, takes in ((grey, 4), (np.repeat(grey, 3, -1), 1)):
        with pytest.raises(ConfigError, match=f"takes pictures of {takes} channels, but these have "):
            autoencoder_folders.channels(pictures, takes)


@pytest.mark.parametrize("devices, count", [(1, 3), (2, 3), (3, 4)])
def test_pictures_that_devices_do_not_divide_are_moved_by_nobody(monkeypatch, devices, count):
    monkeypatch.setattr(autoencoder_folders.jax, "local_devices", lambda: jax.devices()[:1] * devices)
    params, images = object(), np.zeros((count, 2, 2, 3), np.uint8)
    placed = autoencoder_folders.placed(params, images)
    assert placed[0] is params and placed[1] is images
