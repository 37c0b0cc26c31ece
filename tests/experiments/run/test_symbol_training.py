"""Runs on symbols from their configs: trained, ended by a signal and gone on, sampled, measured, on several devices."""

import json
import signal

import numpy as np
import pytest

from diffusion import discrete
from diffusion.data import english_prose, pipeline
from diffusion.experiments import evaluate, train
from diffusion.experiments.evaluation import model_metrics, real_images
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import run_samples
from diffusion.recipe import checks, recipes
from diffusion.training.checkpointing import checkpoints
from tests.training.test_meshes import run

pytestmark = pytest.mark.usefixtures("compilation_cache")
LENGTH = 8


@pytest.fixture(autouse=True)
def made_prose(monkeypatch):
    """Prose of random letters, so that no package is read."""
    letters = np.random.default_rng(0).integers(0, 27, 1600).astype(np.int8)
    text = english_prose.Prose(letters[:800], letters[800:], {"made": "1"})
    monkeypatch.setattr(english_prose, "read", lambda packages: text)


def config_of(preset="tiny", **changes):
    config = recipes.load("symbols/prose:tiny")
    if preset != "tiny":
        other = recipes.load(f"symbols/prose:{preset}")
        config.objective, config.sample.sampler = other.objective, other.sample.sampler
        config.model.clock, config.teacher, config.init_from = other.model.clock, other.teacher, other.init_from
        config.objective.density = {"name": "uniform_density"}
    config.data.source.length = LENGTH
    config.update_from_flattened_dict(
        {"train.steps": 4, "train.log_every": 2, "checkpoint.every": 2, "data.threads": 1, "evaluate.loss.every": 2}
        | changes
    )
    return config


@pytest.mark.extended
def test_a_run_is_trained_sampled_and_measured(tmp_path):
    assert train.run(config_of(**{"evaluate.loss.every": 0, "train.steps": 2}), tmp_path) == 0
    recipe = checks.on_its_data(checks.validate(workdir.read_config(tmp_path)))
    samples = run_samples.sample(recipe, tmp_path)
    assert samples.shape == (6, LENGTH) and samples.dtype == np.int32
    lines = (tmp_path / "samples.txt").read_text().splitlines()
    letters = np.array(list(english_prose.SYMBOLS))
    assert lines == ["".join(letters[row]) for row in samples]
    report = evaluate.run(recipe.config, tmp_path, "test")
    assert set(report["figures"]["distances"]) == {"unigram_divergence", "bigram_divergence", "trigram_divergence"}
    train_split, real = real_images.splits_of(recipe.config)
    labels = np.zeros(6, np.int32)
    measured = model_metrics.METRICS["symbols"](
        model_metrics.Subject(recipe.config, tmp_path, samples, labels, train_split, real)
    )
    assert measured["nats_per_symbol"]["protocol"]["estimator"] == "masked_bound"
    assert 0 < measured["nats_per_symbol"]["value"] < 1.2 * np.log(27)


@pytest.mark.slow
def test_the_held_out_loss_is_measured_and_a_text_completed(tmp_path):
    assert train.run(config_of(), tmp_path) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert [row["step"] for row in rows if "held_out_loss" in row] == [2, 4]
    recipe = checks.on_its_data(checks.validate(workdir.read_config(tmp_path)))
    filled = run_samples.sample(recipe, tmp_path, tmp_path / "filled", infill="ab__ba")
    assert (filled[:, [0, 1, 4, 5]] == [1, 2, 2, 1]).all()
    assert json.loads((tmp_path / "filled/samples.json").read_text())["checkpoint"]["infill"] == "ab__ba"


@pytest.mark.slow
def test_a_student_learns_from_a_run_with_a_curriculum(tmp_path):
    folders = {"teacher.path": str(tmp_path / "duo"), "init_from.path": str(tmp_path / "duo")}
    assert train.run(config_of("duo", **{"objective.until": 2}), tmp_path / "duo") == 0
    rounds = {"objective.steps": 4, "objective.stage": 2, "objective.rounds": 2}
    assert train.run(config_of("distilled", **folders | rounds), tmp_path / "student") == 0
    rows = [json.loads(line) for line in (tmp_path / "student/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2 and all(0 < loss < 1 for loss in losses)  # the student began as its teacher
    recipe = checks.on_its_data(checks.validate(workdir.read_config(tmp_path / "student")))
    assert run_samples.sample(recipe, tmp_path / "student").shape == (6, LENGTH)


@pytest.mark.slow
def test_powers_of_masks_train_with_the_network_and_its_samples_have_them(tmp_path, monkeypatch):
    config = config_of(**{"evaluate.loss.every": 0})
    density = {"name": "uniform_density"}
    config.objective = {"name": "trained_masks", "size": 28, "power": 1.5, "density": density, "wrappers": ()}
    assert train.run(config, tmp_path) == 0
    params, _ = checkpoints.load_ema(tmp_path, 4)
    moved = np.log1p(np.exp(params["heads"]["powers"])) - 1.5
    assert moved.shape == (27,) and 1e-5 < np.abs(moved).max() < 0.1
    drawn, trained = [], discrete.TrainedMasks.trained
    seen = staticmethod(lambda parameters: drawn.append(parameters.shape) or trained(parameters))
    monkeypatch.setattr(discrete.TrainedMasks, "trained", seen)
    recipe = checks.on_its_data(checks.validate(workdir.read_config(tmp_path)))
    samples = run_samples.sample(recipe, tmp_path)
    assert drawn and samples.shape == (6, LENGTH) and samples.max() < 27


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "uniform", "flow", "duo"])
def test_a_run_that_goes_on_is_the_undisturbed_one_bit_for_bit(preset, tmp_path, monkeypatch):
    changes = {"objective.until": 2} if preset == "duo" else {}
    config = config_of(preset, **{"evaluate.every": 4}, **changes)
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    assert train.run(config, straight) == 0
    endless = pipeline.batches

    def interrupted(*arguments, **options):
        for step, batch in enumerate(endless(*arguments, **options)):
            if step == 2:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "batches", interrupted)
        assert train.run(config, parts) == 128 + signal.SIGTERM
    assert checkpoints.latest(parts) == 3
    assert train.run(config, parts) == 0
    leaves = [checkpoints.read_about(folder, 4)["leaves"] for folder in (straight, parts)]
    assert leaves[0] == leaves[1]
    assert (parts / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    last = json.loads((straight / "metrics.jsonl").read_text().splitlines()[-1])
    assert "bigram_divergence" in last["evaluate"]


@pytest.mark.slow
def test_a_classifier_is_trained_and_guides_the_samples_of_a_run(tmp_path):
    """Two classes of constant sequences: the classifier knows them at once, and guided samples are of their class."""
    labels = np.tile([0, 1], 64)
    np.savez(tmp_path / "made.npz", x=np.tile(labels[:, None], LENGTH), label=labels)
    config = config_of(**{"train.steps": 300, "train.log_every": 20, "checkpoint.every": 300, "evaluate.loss.every": 0})
    config.data.source = {"name": "arrays", "path": str(tmp_path / "made.npz"), "x": "x", "label": "label"}
    config.data.split, config.evaluate.split = "train[:50%]", "train[50%:]"
    config.model = config.model.to_dict() | {"num_classes": 2, "tied": False}
    process = {"name": "absorbing", "keeping": {"name": "linear"}, "size": 3}
    density = {"name": "uniform_density"}
    judge, run = config.copy_and_resolve_references(), config.copy_and_resolve_references()
    judge.objective = {"name": "noisy_symbol_classification", "process": process, "density": density, "wrappers": ()}
    assert train.run(judge, tmp_path / "judge") == 0
    last = json.loads((tmp_path / "judge/metrics.jsonl").read_text().splitlines()[-1])
    assert last["loss"] < 0.3
    dropped = {"name": "condition_dropout", "rate": 0.9}
    run.objective = {"name": "masked_diffusion", "process": process, "density": density, "wrappers": (dropped,)}
    run.sample.guidance.scale, run.sample.number = 0.0, 64
    run.sample.guides = ({"name": "symbol_classifier", "log_probability": str(tmp_path / "judge"), "exact": True},)
    assert train.run(run, tmp_path / "run") == 0
    recipe = checks.on_its_data(checks.validate(workdir.read_config(tmp_path / "run")))
    samples = run_samples.sample(recipe, tmp_path / "run")
    labels = np.load(tmp_path / "run/samples.npz")["labels"]
    assert len(np.unique(labels)) == 2 and (samples == labels[:, None]).mean() > 0.9


TRAIN = """
import json, sys
import jax, numpy as np
from configs.symbols import prose
from diffusion.recipe import checks
from diffusion.experiments.run import program as programs
from diffusion.training import sharding

def trained(count, axes):
    config = prose.get_config("tiny")
    config.train.batch_size = 16
    config.model.heads, config.model.width, config.model.num_classes = 4, 32, 0
    config.mesh.update({"data": 1, **axes})
    recipe = checks.validate(config).at((8,))
    mesh = programs.mesh_of(config, jax.devices()[:count])
    program = programs.build(recipe, mesh)
    state = sharding.create(program.init, program.target, program.seed)
    losses = []
    for k in range(int(sys.argv[1])):
        x = np.random.default_rng(k).integers(0, 27, (16, 8)).astype(np.int32)
        batch = {"x": x, "index": np.arange(16 * k, 16 * k + 16)}
        state, metrics = program.step(state, sharding.to_devices(batch, mesh, 16), program.seed)
        losses.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return losses

print(json.dumps([trained(*layout) for layout in json.loads(sys.argv[2])]))
"""
LAYOUTS = [(1, {}), (4, {"data": 4}), (4, {"fsdp": 2, "tensor": 2}), (4, {"data": 4, "kind": "pmap"})]


@pytest.mark.slow
def test_a_run_is_the_same_on_any_mesh():
    one, *others = np.array(json.loads(run(TRAIN, 1, 4, 6, json.dumps(LAYOUTS)).splitlines()[-1]))
    for losses in others:
        np.testing.assert_allclose(losses[:, 0], one[:, 0], rtol=1e-4)
        np.testing.assert_allclose(losses[:, 1], one[:, 1], rtol=2e-3)
