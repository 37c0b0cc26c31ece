"""Which folders are autoencoders, and where their pictures are computed."""

import jax
import numpy as np
import pytest

from diffusion.experiments.sampling import autoencoder_folders
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
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


@pytest.mark.parametrize("devices, count", [(1, 3), (2, 3), (3, 4)])
def test_pictures_that_devices_do_not_divide_are_moved_by_nobody(monkeypatch, devices, count):
    monkeypatch.setattr(autoencoder_folders.jax, "local_devices", lambda: jax.devices()[:1] * devices)
    params, images = object(), np.zeros((count, 2, 2, 3), np.uint8)
    placed = autoencoder_folders.placed(params, images)
    assert placed[0] is params and placed[1] is images
