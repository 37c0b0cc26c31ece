"""`evaluate` measures runs that Python built by further metrics, whose results are checked."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, samplers, schedules, timesteps
from diffusion.experiments.evaluate import evaluate
from diffusion.experiments.evaluation.sample_metrics import Effort
from diffusion.experiments.evaluation.subject import Subject, unguided
from diffusion.models import Functions
from diffusion.recipe import ConfigError, Recipe
from diffusion.recipe.sections import Sampling
from diffusion.training.checkpointing import checkpoints

POINTS = [{"x": np.float32([i % 7 - 3, i % 5 - 2])} for i in range(48)]
QUICK = Effort(2, 2)


def built(**sampling):
    """A run that Python built, whose velocity is 0, so that its flow is the identity."""
    schedule = schedules.rectified_flow()
    network = Functions(lambda key, x, clock, condition: {}, lambda params, x, clock, condition: jnp.zeros_like(x))
    objective = objectives.flow_matching(timesteps.uniform_density(schedule))
    held_out = [{"x": 2 * record["x"] + 0.5} for record in POINTS]
    config = {"sample.steps": 2, "evaluate.number": 48}
    return Recipe(schedule, objective, network, POINTS, held_out, sampling=Sampling(**sampling), config=config)


@pytest.fixture
def folder(tmp_path):
    np.savez(tmp_path / "samples.npz", images=np.stack([r["x"] for r in POINTS]), labels=np.zeros(48, np.int32))
    return tmp_path


def mean(subject):
    return {"mean": {"value": jnp.mean(subject.images), "samples": len(subject.images), "how": "of all the numbers"}}


@pytest.mark.extended
def test_a_function_and_bits_per_dimension_of_a_run_from_python(folder, monkeypatch):
    """-log2 N(x; 0, I) / 2 of the held-out points: the identity changes no volume. Guides would double x0."""
    monkeypatch.setattr(checkpoints, "load_ema", lambda folder: ({}, 7))
    doubled = lambda denoise: lambda x, t: denoise(x, t)._replace(x0=2 * denoise(x, t).x0)
    recipe = built(guides=(doubled,), sampler=samplers.euler())
    run = Subject(recipe.config, folder, None, None, None, None, recipe)
    assert recipe.sampling.guides and unguided(run).sampling.guides == ()
    content = evaluate(recipe, folder, QUICK, metrics=("bpd", mean))
    x = np.stack([record["x"] for record in recipe.held_out])
    exact = ((x**2).sum(1) / 2 + np.log(2 * np.pi)).mean() / 2 / np.log(2)
    assert content["model"]["bits_per_dim"]["value"] == pytest.approx(exact, rel=1e-4)
    assert content["model"]["mean"]["value"] == pytest.approx(np.mean([record["x"] for record in POINTS]))
    assert "| of all the numbers |" in (folder / "report.md").read_text()


@pytest.mark.parametrize(
    "metric, words",
    [
        ("spread", "unknown metric 'spread'"),
        ("cas", "the metric 'cas' is for pictures, but list holds float32"),
        (lambda subject: 3.0, "returns a float"),
        (lambda subject: {"m": 3.0}, r"returns 'm' = 3\.0"),
        (lambda subject: {"m": {"value": "much", "samples": 2}}, "returns 'm' = "),
        (lambda subject: {"m": {"value": 1.0}}, 'Valid: .*"samples"'),
        (
            lambda subject: {"m": {"value": 1.0, "samples": 2, "better": "more"}},
            "'m' with .better.: 'more'. Valid: 'lower'",
        ),
    ],
)
def test_what_is_no_metric_is_named(metric, words, folder, monkeypatch):
    monkeypatch.setattr("diffusion.experiments.evaluate.run", lambda *arguments: {})
    with pytest.raises(ConfigError, match=words):
        evaluate(built(), folder, QUICK, metrics=(metric,))
