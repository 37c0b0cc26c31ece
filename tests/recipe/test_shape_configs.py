"""Runs on shapes by a config: what each is, and one run from training to its figures and pictures."""

import json

import numpy as np
import pytest

from diffusion.data import sources
from diffusion.experiments import train
from diffusion.experiments.evaluation import cloud_metrics, model_metrics, real_images
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import run_samples
from diffusion.recipe import ConfigError, checks, recipes

FORMS = {"points": (128, 3), "points:large": (512, 3), "voxels": (16, 16, 16, 1)}


@pytest.mark.parametrize("name", FORMS)
def test_every_recipe_fits_its_data(name):
    config = recipes.load(f"shapes/{name}")
    fields = config.data.source.to_dict()
    spec = getattr(sources, fields.pop("name"))(**fields | {"number": 1}).spec
    assert spec.shape == FORMS[name]
    recipe = checks.with_data(checks.validate(config), spec)
    assert recipe.examples.num_classes == 8 and not recipe.makes_pictures


class Subject:
    """What `measure_clouds` reads of a run: the test solids as samples."""

    built = None

    def __init__(self, samples):
        self.config = recipes.load("shapes/points:tiny")
        self.train, self.real = real_images.splits_of(self.config)
        self.images = samples(self.real.images)
        self.labels = self.real.labels


def test_figures_of_copies_are_those_of_copies(monkeypatch):
    figures = cloud_metrics.measure_clouds(Subject(lambda real: real + 1e-6))
    values = {name: figure["value"] for name, figure in figures.items()}
    for distance in ("chamfer", "earth_movers"):
        assert values[f"1nna_{distance}"] == 0 and values[f"coverage_{distance}"] == 1
        assert values[f"minimum_matching_{distance}"] < 1e-5 < values[f"minimum_matching_{distance}_of_real_shapes"]
        assert values[f"1nna_{distance}_of_scattered_points"] > 0.6
    assert json.dumps(figures)


def test_other_data_have_no_clouds():
    subject = Subject(lambda real: real)
    subject.config = recipes.load("points:tiny")
    with pytest.raises(ConfigError, match=r"Spirals holds none.*solid_points"):
        subject.real = subject.real._replace(spec=subject.real.spec._replace(name="Spirals"))
        cloud_metrics.measure_clouds(subject)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["points", "voxels"])
def test_a_run_trains_samples_draws_and_is_measured(name, tmp_path):
    assert train.run(recipes.load(f"shapes/{name}:tiny"), tmp_path) == 0
    recipe = checks.on_its_data(checks.validate(workdir.read_config(tmp_path)))
    samples = run_samples.sample(recipe, tmp_path)
    assert {"samples.png", "views.png", "turntable.gif"} <= {path.name for path in tmp_path.iterdir()}
    assert len(list((tmp_path / "ply").iterdir())) == 16
    labels = np.load(tmp_path / "samples.npz")["labels"]
    subject = model_metrics.Subject(recipe.config, tmp_path, samples, labels, *real_images.splits_of(recipe.config))
    measured = model_metrics.METRICS["clouds"](subject)
    in_one_piece = 2 * (1 + len(subject.real.spec.classes)) if name == "voxels" else 0  # of all and of each class
    assert measured["1nna_chamfer"]["samples"] == 16 and len(measured) == 18 + in_one_piece
