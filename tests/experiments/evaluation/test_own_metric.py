"""A metric of one's own measures a run on any data, as docs/extend.md says: points, pytrees, series, sound, clouds."""

import json

import numpy as np
import pytest

from diffusion.data.sources.sequences import Records
from diffusion.experiments import evaluate
from diffusion.experiments.evaluation import model_metrics, real_images, run_report
from diffusion.experiments.evaluation.sample_metrics import Effort
from diffusion.experiments.run_folder import workdir
from diffusion.recipe import ConfigError, names
from tests import commands
from tests.experiments.run.test_every_source import config_of

SOURCES = {
    "points": {"name": "spirals", "number": 60},
    "pytrees": {"name": "parts"},
    "series": {"name": "gaussian_series", "number": 60, "length": 8},
    "sound": {"name": "instruments", "number": 60, "length": 256},
    "clouds": {"name": "solid_points", "number": 60, "points": 8},
}
OWN = """
from diffusion.recipe import names
from diffusion.experiments.evaluation import model_metrics


def spread(subject):
    figure = lambda x: {"value": float(x.std()), "standard_error": None, "samples": len(x)}
    return {"spread": figure(subject.images), "spread_of_held_out": figure(subject.real.images)}


names.add(model_metrics.METRICS, spread)
"""


def parts(split="train"):
    """Examples that are pytrees of a vector and a matrix."""
    rng = np.random.default_rng(len(split))
    draw = lambda: {"a": rng.normal(size=3).astype(np.float32), "b": rng.normal(size=(2, 2)).astype(np.float32)}
    return Records([{"x": draw()} for _ in range(60)], 0, split)


@pytest.fixture
def spread(monkeypatch):
    monkeypatch.setattr(model_metrics, "METRICS", dict(model_metrics.METRICS))
    monkeypatch.setitem(names.SOURCES, "parts", parts)
    exec(OWN, {})
    return model_metrics.METRICS["spread"]


def run_of(source, folder):
    """A run's folder as the command reads it: a config, and the held-out records, twice as large, as its samples."""
    config = config_of(source, **{"evaluate.features": ()})
    config.model.num_classes = 0
    config.objective.wrappers = ()
    config.sample.guidance.scale = 1.0
    real = real_images.splits_of(config)[1]
    np.savez(folder / "samples.npz", images=2 * real.images[:40], labels=np.zeros(40, np.int32))
    return config, real


@pytest.mark.extended
@pytest.mark.parametrize("kind", SOURCES)
def test_it_measures_examples_of_any_kind(kind, spread, tmp_path):
    config, real = run_of(SOURCES[kind], tmp_path)
    evaluate.require_pictures(config, ["spread"])
    assert evaluate.split_metrics(["spread"]) == ([], ["spread"])
    with pytest.raises(
        ConfigError, match=r"--metrics=vocoder is no longer valid: it was removed with .* Version 0\.1\.0 is the last"
    ):
        evaluate.split_metrics(["vocoder"])
    content = evaluate.run(config, tmp_path, "diffusion evaluate", Effort(0, 2))
    content["model"] = evaluate.model_figures(config, tmp_path, tmp_path, ["spread"])
    assert content["model"]["spread"]["value"] == pytest.approx(2 * real.images[:40].std(), rel=1e-5)
    assert content["model"]["spread_of_held_out"]["value"] == pytest.approx(real.images.std(), rel=1e-5)
    run_report.write(content, tmp_path)
    assert "| spread | " in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("kind", SOURCES)
def test_one_that_needs_pictures_is_refused_there(kind, spread, tmp_path):
    config, _ = run_of(SOURCES[kind], tmp_path)
    model_metrics.pictures_alone(spread)
    with pytest.raises(ConfigError, match="--metrics=spread is for pictures"):
        evaluate.require_pictures(config, ["spread"])


@pytest.mark.slow
def test_the_command_takes_it_by_extend(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    config, real = run_of(SOURCES["series"], tmp_path)
    workdir.settle_config(tmp_path, config)
    line = ["diffusion", "evaluate", f"--workdir={tmp_path}", "--extend=own.py", "--metrics=spread"]
    done = commands.run(*line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads((tmp_path / "report.json").read_text())["model"]
    assert measured["spread_of_held_out"]["value"] == pytest.approx(real.images.std(), rel=1e-5)
