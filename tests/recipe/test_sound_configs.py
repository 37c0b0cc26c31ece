"""Runs on sound by a config: what each names, clips longer than memory, and runs from training to their figures."""

import functools
import json

import numpy as np
import pytest

from diffusion.experiments import train
from diffusion.experiments.evaluation import model_metrics, real_images
from diffusion.experiments.sampling import run_samples
from diffusion.metrics import classifier
from diffusion.models import SequenceTransformer, UNet
from diffusion.models.budget import peak_memory
from diffusion.recipe import ConfigError, checks, recipes

SHAPES = {"tones": (328, 64), "waveform": (128, 16), "spectrum": (256, 8)}
NETWORKS = {
    "tones": SequenceTransformer,
    "waveform": UNet, "waveform:dit": SequenceTransformer, "spectrum": UNet, "spectrum:dit": SequenceTransformer,
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_every_recipe_resolves(name):
    config = recipes.load(f"sound/{name}")
    config.data.source.number = 8
    recipe = checks.on_its_data(checks.validate(config))
    assert recipe.examples.shape == SHAPES[name.split(":")[0]] and isinstance(recipe.network, NETWORKS[name])
    assert recipe.examples.num_classes == 8


@pytest.mark.extended
@pytest.mark.parametrize("name, shape", [("sound/spectrum:tiny", r"\(256, 2\)"), ("points:tiny", r"\(2,\)")])
def test_examples_larger_than_memory_are_refused_with_the_estimate(name, shape, tmp_path, monkeypatch):
    monkeypatch.setattr(peak_memory, "available", lambda: 2**10)
    config = recipes.load(name)
    words = rf"a step of {config.train.batch_size} examples of {shape} would need about .* of memory, but only"
    with pytest.raises(ConfigError, match=words):
        train.run(config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHAPES if name != "tones"])
def test_a_run_trains_makes_sounds_and_is_judged(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(classifier, "train", functools.partial(classifier.train, steps=3))
    config = recipes.load(f"sound/{name}:tiny")
    train.run(config, tmp_path)
    run_samples.sample(checks.on_its_data(checks.validate(config)), tmp_path)
    assert (tmp_path / "samples.png").is_file()
    assert len(list((tmp_path / "sounds").glob("*.wav"))) == 16
    with np.load(tmp_path / "samples.npz") as file:
        arrays = dict(file)
    assert arrays["images"].shape[0] == 16 and np.isfinite(arrays["images"]).all()
    subject = model_metrics.Subject(
        config, tmp_path, arrays["images"], arrays["labels"], *real_images.splits_of(config)
    )
    measured = model_metrics.METRICS["sound"](subject)
    assert json.dumps(measured) and all(np.isfinite(one["value"]) for one in measured.values())


@pytest.mark.slow
def test_a_run_on_notes_with_their_pitch_trains_and_makes_notes(tmp_path):
    config = recipes.load("sound/tones:tiny")
    train.run(config, tmp_path)
    run_samples.sample(checks.on_its_data(checks.validate(config)), tmp_path)
    assert len(list((tmp_path / "sounds").glob("*.wav"))) == 16
    with np.load(tmp_path / "samples.npz") as file:
        assert file["images"].shape == (16, 328, 16) and np.isfinite(file["images"]).all()
