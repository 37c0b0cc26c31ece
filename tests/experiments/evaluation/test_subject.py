"""The sources and the recipe by which a metric measures a run."""

import types

import pytest

from diffusion.experiments.evaluation import subject


@pytest.fixture
def run(monkeypatch):
    """A run of a config, whose sources are the names of their splits."""
    monkeypatch.setattr(subject.data, "source", lambda config, split: split)
    monkeypatch.setattr(subject.Recipe, "from_config", lambda config, shape: (config, shape))
    config = {"evaluate": {"split": "test"}, "data": {"split": "train"}}
    real = types.SimpleNamespace(
        images=types.SimpleNamespace(shape=(7, 8, 8, 1)), spec=types.SimpleNamespace(shape=(8,))
    )
    return subject.Subject(config, "run", None, None, None, real)


def test_a_run_of_a_config_is_measured_on_the_splits_that_it_names(run):
    assert subject.held_out_source(run) == "test" and subject.training_source(run) == "train"
    assert subject.recipe_of_run(run) == (run.config, (8, 8, 1))


def test_a_run_that_python_built_is_measured_on_its_own_sources(run, monkeypatch):
    monkeypatch.setattr(subject.held_out, "open_held_out", lambda recipe: f"held out of {recipe}")
    monkeypatch.setattr(subject.data, "open_recipe", lambda recipe: f"trained on by {recipe}")
    built = run._replace(built="mine")
    assert subject.held_out_source(built) == "held out of mine"
    assert subject.training_source(built) == "trained on by mine" and subject.recipe_of_run(built) == "mine"
