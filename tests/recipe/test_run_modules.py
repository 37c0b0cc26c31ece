"""The modules that a run builds beside its model, and the source of its data: what each receives, of stand-ins."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.recipe import data, names
from diffusion.recipe.autoencoder import Autoencoder
from diffusion.recipe.companions import Encoder

PICTURES = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 3)), jnp.float32)


class Plain:
    """An encoder without weights: its features are the pixels that it receives."""

    def init(self, key, x):
        return {"shape": jnp.zeros(x.shape)}

    def apply(self, params, x):
        return types.SimpleNamespace(patches=x.reshape(x.shape[0], -1, x.shape[-1]))


@pytest.mark.parametrize("size, side", [(0, 4), (4, 4), (8, 8), (2, 2)])
def test_an_encoder_receives_pictures_of_its_size(size, side):
    """A grey picture stays grey whatever its size; pictures of the encoder's size, or of any at 0, stay as they are."""
    encoder = Encoder(Plain(), size=size)
    grey = jnp.full_like(PICTURES, 0.25)
    features = encoder.apply({}, grey, None, None)
    assert features.shape == (2, side * side, 3)
    np.testing.assert_allclose(features, 0.25, rtol=1e-6)
    assert encoder.init(jax.random.key(0), PICTURES, None, None)["shape"].shape == (2, side, side, 3)
    if side == 4:
        np.testing.assert_array_equal(encoder.apply({}, PICTURES, None, None), PICTURES.reshape(2, 16, 3))
    if size:
        assert encoder.features() == encoder.features({}) == (side * side, 3)


def test_the_channels_of_an_encoder_are_its_modules_or_three():
    assert Encoder(Plain()).channels == 3
    assert Encoder(types.SimpleNamespace(picture_channels=1)).channels == 1


class Halves(nn.Module):
    """An autoencoder whose decoder returns the latents."""

    scale: float | tuple[float, ...] = 0.5
    shift: float | tuple[float, ...] = -3.0
    factor: int = 2
    picture_channels: int = 3
    latent_channels: int = 2

    @nn.nowrap
    def decode(self, z):
        return z


@pytest.mark.parametrize("scale, shift", [(0.5, -3.0), ((0.25, 2.0), (1.0, -1.0))])
def test_a_scale_and_a_shift_are_a_variance_and_a_mean_and_come_back(scale, shift):
    """scale (z - shift) has unit variance: the latents z have mean `shift` and variance scale^-2, in each channel."""
    tuned = Autoencoder(Halves(scale=scale, shift=shift))
    latents = tuned.latents()
    np.testing.assert_array_equal(latents.mean, np.broadcast_to(shift, 2))
    np.testing.assert_array_equal(latents.variance, 1 / np.broadcast_to(scale, 2) ** 2)
    network = {"autoencoder": {"kernel": jnp.ones(1)}}
    params = {"heads": {"autoencoder": {"mean": latents.mean, "var": latents.variance, "network": network}}}
    module, own = tuned.trained(params)
    assert own is network["autoencoder"]
    assert module.scale == tuple(np.broadcast_to(scale, 2)) and module.shift == tuple(np.broadcast_to(shift, 2))
    x = jnp.asarray([[[[1.0, -2.0]]]])
    np.testing.assert_allclose(tuned.decode(params, x), x / np.asarray(scale) + np.asarray(shift), rtol=1e-6)


def test_a_latent_has_the_sides_that_the_factor_leaves():
    tuned = Autoencoder(Halves())
    assert tuned.latent_shape((6, 4, 3)) == (3, 2, 2)
    for shape in ((6, 5, 3), (5, 4, 3), (6, 4, 2), (6, 4), (1, 6, 4, 3)):
        with pytest.raises(ValueError, match="Valid: pictures of 3 channels whose sides 2 divides"):
            tuned.latent_shape(shape)


def test_a_source_receives_what_it_asks_for_of_the_data(monkeypatch):
    """And the sources in it, each the same; of several sizes a source learns by the area of the buckets."""

    received = lambda *asked: types.SimpleNamespace(spec=None, asked=asked)

    def asks(dataset: str, folder: str, split: str, varied: tuple, seed: int, of: tuple = ()):
        return received(dataset, folder, split, varied, seed, *(source.asked for source in of))

    monkeypatch.setattr(names, "SOURCES", {"asks": asks, "alone": lambda seed: received(seed)})
    settings = {
        "source": {"name": "asks", "of": [{"name": "asks"}, {"name": "alone"}]},
        "name": "digits",
        "dir": "/data",
        "buckets": {"area": 0},
        "shape": (32, 16, 3),
    }
    each = ("digits", "/data", "test", (), 7)
    assert data.open_settings(settings, "test", 7).asked == (*each, each, (7,))
    several = data.open_settings(settings | {"source": {"name": "asks"}, "buckets": {"area": 1}}, "train", 0)
    assert several.asked == ("digits", "/data", "train", (32, 16), 0)
