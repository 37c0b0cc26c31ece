"""Runs on backbones by a config: what it names, mistakes, and one run from training to PDB files and figures."""

import json

import numpy as np
import pytest

from diffusion.data.proteins import backbone, folds, pdb
from diffusion.data.sources import DataSpec
from diffusion.experiments import train
from diffusion.experiments.evaluation import backbone_figures, model_metrics, real_images
from diffusion.experiments.sampling import run_samples
from diffusion.models.frame_transformer import FrameTransformer
from diffusion.recipe import ConfigError, checks, recipes

SHAPE = (32, 3, 4)
SPEC = DataSpec("ideal_folds", "train", SHAPE, 6, 100, dtype="float32")


def test_the_recipe_resolves():
    recipe = checks.with_data(checks.validate(recipes.load("proteins/frames")), SPEC)
    assert recipe.objective.reads.manifold.shape == SHAPE
    assert isinstance(recipe.network, FrameTransformer)
    assert recipe.sampling.sampler.draws and not recipe.objective.examples.score  # of a coupling; it follows no score


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("objective.prior", {"name": "frame_prior", "n": 32, "scale": 0.0}, "scale = 0.0 must be positive"),
        ("objective.prior", {"name": "frame_priors", "n": 32}, "frame_prior"),
        ("objective.manifold", {"name": "frames", "n": 1}, "n = 1"),
        ("model.heads", 5, "heads=5"),
    ],
)
def test_mistakes_are_refused(field, value, message):
    config = recipes.load("proteins/frames:tiny")
    section, _, last = field.rpartition(".")
    config[section][last] = value
    with pytest.raises(ConfigError, match=message):
        checks.validate(config)


@pytest.mark.slow
def test_a_run_trains_and_writes_chains_and_figures(tmp_path):
    config = recipes.load("proteins/frames:tiny")
    train.run(config, tmp_path)
    recipe = checks.with_data(checks.validate(config), SPEC)
    run_samples.sample(recipe, tmp_path)
    assert (tmp_path / "samples.png").is_file()
    with np.load(tmp_path / "samples.npz") as file:
        samples, labels = file["images"], file["labels"]
    recipe.objective.reads.manifold.check(samples)
    files = sorted((tmp_path / "pdb").iterdir())
    assert len(files) == len(samples) == 12
    assert files[7].name == f"00007_{folds.CLASSES[labels[7]]}.pdb"
    np.testing.assert_allclose(pdb.load(files[7])[:, :3], backbone.atoms_of(samples[7]), atol=1e-3)
    subject = model_metrics.Subject(config, tmp_path, samples, labels, *real_images.splits_of(config))
    measured = model_metrics.METRICS["backbone"](subject)
    by_fold = {f"sound_chains_{folds.CLASSES[label]}" for label in labels}
    of_samples = {name for name in measured if not name.endswith(("_of_real", "_of_noise"))}
    assert of_samples == backbone_figures.HOW.keys() | by_fold
    assert measured["c_n_error_of_real"]["value"] == pytest.approx(0, abs=1e-3)
    assert measured["sound_chains_of_real"]["value"] == 1
    assert measured["nearest_of_its_fold_of_real"]["value"] == 1
    assert measured["c_n_error_of_noise"]["value"] > 5  # independent places: a nanometre and more apart
    assert measured["sound_chains_of_noise"]["value"] == 0
    assert json.dumps(measured)


@pytest.mark.extended
def test_other_runs_have_no_backbones():
    config = recipes.load("manifolds/sphere:tiny")
    subject = model_metrics.Subject(config, None, np.zeros((2, 3)), np.zeros(2, int), None, None)
    with pytest.raises(ConfigError, match="--metrics=backbone is for runs on backbone frames,"):
        model_metrics.METRICS["backbone"](subject)
