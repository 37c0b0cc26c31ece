"""Runs on manifolds by a config: what each names, mistakes, and one run from training to its likelihood."""

import json

import numpy as np
import pytest

from diffusion import manifolds
from diffusion.data.sources import DamagedRecord, DataSpec
from diffusion.data.sources.sequences import Records
from diffusion.experiments import train
from diffusion.experiments.evaluation import model_metrics, real_images
from diffusion.experiments.run import examples
from diffusion.experiments.sampling import run_samples
from diffusion.objectives import Moves
from diffusion.recipe import ConfigError, Recipe, checks, data, recipes

SHAPES = {"sphere": (3,), "torsions": (2,), "so3": (3, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("preset", ("", "diffusion", "tiny"))
@pytest.mark.parametrize("name", SHAPES)
def test_every_recipe_resolves(name, preset):
    spec = DataSpec(name, "train", SHAPES[name], 0, 100, dtype="float32")
    recipe = checks.with_data(checks.validate(recipes.load(f"manifolds/{name}:{preset}")), spec)
    reads = recipe.objective.reads
    assert isinstance(reads, Moves)
    assert reads.manifold.shape == SHAPES[name]
    assert manifolds.TangentField in recipe.sampling.sampler.takes
    assert bool(recipe.sampling.sampler.draws) == (preset == "diffusion")


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("sample.sampler", {"name": "heun"}, r"trains a field on a manifold,.*\. Valid: geodesic_euler"),
        ("sample.guidance", {"name": "classifier_free", "scale": 2.0}, "a field on a manifold cannot be guided"),
        ("objective.manifold", {"name": "spere", "n": 2}, "sphere"),
        ("objective.manifold", {"name": "sphere", "n": 0}, "n = 0 must be positive"),
    ],
)
def test_mistakes_are_refused(field, value, message):
    config = recipes.load("manifolds/sphere:tiny")
    section, _, last = field.rpartition(".")
    config[section][last] = value
    with pytest.raises(ConfigError, match=message):
        checks.validate(config)


def test_a_sampler_on_manifolds_needs_such_an_objective():
    config = recipes.load("points:tiny")
    config.sample.sampler = {"name": "geodesic_heun"}
    with pytest.raises(ConfigError, match="the sampler takes a field on a manifold"):
        checks.validate(config)


def test_points_off_the_manifold_are_refused_before_anything_is_compiled():
    """Torsions in degrees, and a prior of another number of angles."""
    torus = manifolds.torus(2)
    reads = lambda prior: Moves(None, manifolds.uniform(prior), torus)
    radians = np.random.default_rng(0).uniform(-3, 3, (300, 2)).astype(np.float32)
    records = lambda x: Records([{"x": one} for one in x])
    examples.check_points(reads(torus), records(radians))
    with pytest.raises(ConfigError, match=r"config\.data: circle.* radians in"):
        examples.check_points(reads(torus), records(np.degrees(radians)))
    with pytest.raises(ConfigError, match=r"config\.objective\.prior: .* shape"):
        examples.check_points(reads(manifolds.torus(3)), records(radians))


@pytest.mark.extended
def test_a_rare_point_off_the_manifold_is_refused_in_its_batch(monkeypatch):
    """A direction that is missing as zeros, in a record that nothing reads before the training."""
    config = recipes.load("manifolds/sphere:tiny")
    points = np.tile(np.float32([0, 0, 1]), (3000, 1))
    points[1] = 0
    source = Records([{"x": point} for point in points])
    monkeypatch.setattr(data, "source", lambda config, split: source)
    opened = examples.open_examples(checks.with_data(checks.validate(config), source.spec))
    with pytest.raises(DamagedRecord, match=r"a point off the manifold: sphere\(2\): point .*, violates"):
        for start in range(0, 3000, size := config.train.batch_size):
            next(opened.batches(config, start, np.arange(size), 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_a_run_trains_samples_and_has_a_likelihood(name, tmp_path):
    config = recipes.load(f"manifolds/{name}:tiny")
    config.data.source.number = 200
    train.run(config, tmp_path)
    spec = DataSpec(name, "train", SHAPES[name], 0, 200, dtype="float32")
    recipe = checks.with_data(Recipe.from_config(config, SHAPES[name]), spec)
    run_samples.sample(recipe, tmp_path)
    assert (tmp_path / "samples.png").is_file()
    with np.load(tmp_path / "samples.npz") as file:
        samples = file["images"]
    recipe.objective.reads.manifold.check(samples)
    splits = real_images.splits_of(config)
    subject = model_metrics.Subject(config, tmp_path, samples, np.zeros(len(samples), int), *splits)
    measured = model_metrics.METRICS["nll"](subject)
    values = {name: one["value"] for name, one in measured.items()}
    gap = values["negative_log_likelihood"] - values["exact_negative_log_likelihood"]
    assert values["excess_negative_log_likelihood"] == pytest.approx(gap, abs=1e-6)
    assert json.dumps(measured)
