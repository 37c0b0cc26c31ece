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
        assert variables == {"params": "weights"}
        return Moments(x / 2, x) if method == "encode" else ("decoded", x)


@pytest.fixture
def run(monkeypatch, tmp_path):
    module = Module()
    loaded = []

    def load(path):
        loaded.append(path)
        return types.SimpleNamespace(module=module, params="weights", record={})

    monkeypatch.setattr(clip_coding.autoencoder_folders, "load", load)
    config = {"data": {"latents": {"dir": str(tmp_path / "moved"), "autoencoder": "A"}, "name": "clips"}}
    config["data"] |= {"source": {"name": "tfds"}, "split": "train"}
    return types.SimpleNamespace(**sectioned({"config": config})), module, loaded


def test_latents_are_the_scaled_mean_of_the_posterior_of_an_autoencoder_that_is_read_once(run):
    recipe, module, loaded = run
    coding = clip_coding.build_coding(recipe)
    np.testing.assert_allclose(coding.encode("weights", np.array([4.0, 6.0])), [4.0, 8.0])
    assert coding.params == "weights" and coding.step == 1 and loaded == ["A"]
    assert coding.decode("weights", np.float32(8)) == ("decoded", 3.0)
    module.time_factor = 4
    assert clip_coding.build_coding(recipe).step == 4


def test_a_run_on_pictures_needs_no_encoder(run):
    recipe, _, loaded = run
    recipe.config["data"]["latents"]["dir"] = ""
    coding = clip_coding.build_coding(recipe)
    assert coding.encode((), 5) == 5 and coding.step == 1 and coding.decode((), 2) == 2 and not loaded


def test_an_autoencoder_that_trained_with_the_run_is_refused(run):
    run[0].companions = Companions(autoencoder="its own")
    with pytest.raises(ConfigError, match="the autoencoder of this run was trained together with"):
        clip_coding.build_coding(run[0])
