"""The evaluation in the loop: which samples it makes, follows and draws, and the figures that it gives back."""

import math

import numpy as np
import pytest

from configs import digits
from diffusion.experiments.run import training_evaluation
from diffusion.experiments.run.training_evaluation import EvaluationFailed, previews
from diffusion.experiments.sampling import generate
from diffusion.recipe import Recipe
from diffusion.training.runtime import preemption


@pytest.mark.parametrize("classes", [True, False], ids=["ten classes", "no class"])
def test_an_evaluation_follows_one_sample_of_each_class(tmp_path, monkeypatch, classes):
    """Of five classes at most, each by the seed of its first sample; without classes the first sample alone."""
    config = digits.get_config("tiny")
    config.evaluate.number = 12
    config.sample.seed = 3
    if not classes:
        config.model.num_classes, config.objective.wrappers, config.sample.guidance.scale = 0, (), 1.0
    recipe = Recipe.from_config(config, (8, 8, 1))
    calls = {}

    def images(params, labels, seeds, progress):
        calls["images"] = params, labels, seeds
        return np.zeros((12, 8, 8, 1), np.uint8)

    def trajectory(params, labels, seeds):
        calls["trajectory"] = params, labels, seeds
        steps = len(recipe.sampling.plan.grid) - 1
        return np.zeros((steps + 1, len(seeds), 8, 8, 1)), np.zeros((steps, len(seeds), 8, 8, 1))

    def evaluated(samples, labels, *rest):
        calls["evaluated"] = labels
        return {"fd": 1 / 3, "ratio": math.nan}

    monkeypatch.setattr(training_evaluation.generate, "generator", lambda *_: generate.Generator(images, trajectory, 1))
    monkeypatch.setattr(training_evaluation, "evaluate_samples", evaluated)
    figures = training_evaluation.evaluation(recipe, tmp_path, None)("params", 7, preemption.StopRequest())
    assert figures == {"fd": 0.33333333, "ratio": None}
    labels = np.arange(12) % 10 if classes else np.zeros(12)
    params, conditions, seeds = calls["images"]
    assert params == "params" and np.array_equal(conditions, labels) and np.array_equal(calls["evaluated"], labels)
    np.testing.assert_array_equal(seeds, 3_000_000 + np.arange(12))
    followed = np.arange(5) if classes else np.arange(1)
    np.testing.assert_array_equal(calls["trajectory"][1], followed)
    np.testing.assert_array_equal(calls["trajectory"][2], 3_000_000 + followed)
    assert set(previews(tmp_path, 7)) == {"samples", "trajectory"} and not previews(tmp_path, 6)
    monkeypatch.setattr(training_evaluation.generate, "generator", lambda *_: generate.Generator(images, None, None))
    training_evaluation.evaluation(recipe, tmp_path, None)("params", 8, preemption.StopRequest())
    assert set(previews(tmp_path, 8)) == {"samples"}  # of a driver that does not show its steps


def test_the_followed_samples_have_their_conditions_seeds_and_classes(tmp_path, monkeypatch):
    """The classes of records come in any order; samples 2, 1 and 0 are here the first of classes 0, 4 and 7."""
    config = digits.get_config("tiny")
    config.evaluate.number, config.sample.seed = 6, 3
    recipe = Recipe.from_config(config, (8, 8, 1))
    classes = np.array([7, 4, 0, 7, 0, 4])
    followed, drawn = [], []

    def trajectory(params, labels, seeds):
        followed.append((labels.tolist(), seeds.tolist()))
        return np.zeros((2, 3, 8, 8, 1)), np.zeros((1, 3, 8, 8, 1))

    images = lambda params, labels, seeds, progress: np.zeros((6, 8, 8, 1), np.uint8)
    made = generate.Generator(images, trajectory, 1)
    monkeypatch.setattr(training_evaluation.generate, "generator", lambda *_: made)
    monkeypatch.setattr(training_evaluation.generate, "conditions_of", lambda *_: classes)
    monkeypatch.setattr(training_evaluation, "evaluate_samples", lambda *_: {})
    monkeypatch.setattr(training_evaluation.plots, "sample_grid", lambda *_, **how: None)
    draw = lambda x, x0, times, labels, path, classes: drawn.append(labels.tolist())
    monkeypatch.setattr(training_evaluation.plots, "trajectory", draw)
    training_evaluation.evaluation(recipe, tmp_path, None)("params", 7, preemption.StopRequest())
    assert followed == [([0, 4, 7], [3_000_002, 3_000_001, 3_000_000])] and drawn == [[0, 4, 7]]


@pytest.mark.parametrize("infinite", [5, 12])
def test_figures_of_samples_that_are_not_finite_are_no_silent_ones(tmp_path, monkeypatch, infinite):
    """Pictures show them in black, and figures would compare these with the data."""
    config = digits.get_config("tiny")
    config.evaluate.number = 12
    made = 0

    def images(params, labels, seeds, progress):
        nonlocal made
        made += 1
        return np.zeros((12, 8, 8, 1), np.uint8)

    work = lambda: np.array([0, 0, infinite * made])
    monkeypatch.setattr(
        training_evaluation.generate, "generator", lambda *_: generate.Generator(images, None, None, work)
    )
    monkeypatch.setattr(training_evaluation, "evaluate_samples", lambda *_: {"fd": 1.0})
    evaluate = training_evaluation.evaluation(Recipe.from_config(config, (8, 8, 1)), tmp_path, None)
    for _ in range(2):
        if infinite == 12:
            with pytest.raises(EvaluationFailed, match=r"ValueError: 12 of 12 samples are not finite.*Try"):
                evaluate("params", 7, preemption.StopRequest())
        else:
            with pytest.warns(UserWarning, match=r"5 of 12 samples are not finite.*config\.sample\.steps ="):
                assert evaluate("params", 7, preemption.StopRequest()) == {"fd": 1.0}
