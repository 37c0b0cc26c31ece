"""How clips become what a run samples, and back."""

import types

import numpy as np
import pytest

from diffusion.experiments.sampling import clip_coding
from diffusion.models.autoencoders.latent_space import Moments
from diffusion.recipe import ConfigError
from diffusion.recipe.sections import Companions, sectioned


class Module:
    """Encodes to x / 2 as the mean of moments; latents are 4 (z - 1)."""

    scale, shift = 4.0, 1.0

    def apply(self, variables, x, method):
        assert variables == {"params": "weights"} and method == "encode"
        return Moments(x / 2, x)


@pytest.fixture
def run(monkeypatch):
    module = Module()
    decode = lambda params, x: ("decoded", params, x)
    monkeypatch.setattr(clip_coding.autoencoder_folders, "decoding", lambda config: ("weights", decode))
    monkeypatch.setattr(
        clip_coding.autoencoder_folders,
        "load",
        lambda path: types.SimpleNamespace(module=module) if path == "A" else None,
    )
    latents = types.SimpleNamespace(autoencoder="A")
    config = types.SimpleNamespace(data=types.SimpleNamespace(latents=latents))
    return types.SimpleNamespace(**sectioned({"config": config, "on_latents": True})), module


def test_latents_are_the_scaled_mean_of_the_posterior(run):
    recipe, module = run
    coding = clip_coding.build_coding(recipe)
    np.testing.assert_allclose(coding.encode("weights", np.array([4.0, 6.0])), [4.0, 8.0])
    assert coding.params == "weights" and coding.step == 1 and coding.decode("p", 2) == ("decoded", "p", 2)
    module.time_factor = 4
    assert clip_coding.build_coding(recipe).step == 4


def test_a_run_on_pictures_needs_no_encoder(run):
    recipe, _ = run
    recipe.on_latents = False
    coding = clip_coding.build_coding(recipe)
    assert coding.encode("weights", 5) == 5 and coding.step == 1 and coding.decode("p", 2) == ("decoded", "p", 2)


def test_an_autoencoder_that_trained_with_the_run_is_refused(run):
    run[0].companions = Companions(autoencoder="its own")
    with pytest.raises(ConfigError, match="the autoencoder of this run was trained together with"):
        clip_coding.build_coding(run[0])
