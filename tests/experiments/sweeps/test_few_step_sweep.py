"""The methods of few steps at one cost: the passes that the sweeps state are those that a plan counts."""

import pytest

from configs.text import shapes
from diffusion.experiments import plan
from diffusion.experiments.sweeps import definition
from diffusion.recipe import recipes, values, versions
from examples.text import demo as text_demo
from tests import commands

SWEEP = recipes.module("digits_few_step", recipes.SWEEPS)
TEXT = recipes.module("text_few_step", recipes.SWEEPS)
SLOW = sorted(SWEEP.METHODS.keys() - {"lcm", "dmd"})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A folder with the config of the teacher, and the operations of a pass of its network over one example."""
    folder = tmp_path_factory.mktemp("digits")
    config = recipes.load("digits")
    (folder / "config.json").write_text(values.to_json(config))
    return folder, plan.plan(config, 1, ())["flops"]["model"] / (3 * config.train.batch_size)


def passes(method, folder, one_pass):
    """The passes of a step for each example of its batch, by the operations that a plan counts."""
    config = recipes.load(f"{method.recipe}:{folder}" if method.recipe.startswith("students/") else method.recipe)
    config.update_from_flattened_dict(dict(method.fields))
    operations = plan.plan(config, 1, ())["flops"]
    step = operations.get("step", operations.get("model"))
    assert config.train.batch_size == method.batch
    return step / (one_pass * method.batch)


@pytest.mark.extended
@pytest.mark.parametrize("name", ["lcm", "dmd", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_step_takes_the_passes_that_the_sweep_counts(teacher, name):
    method = SWEEP.METHODS[name]
    assert passes(method, *teacher) == pytest.approx(method.passes, rel=0.02)


@pytest.fixture(scope="module")
def text_teacher(tmp_path_factory):
    """As `teacher`, for the text-to-image model: its config, with the captions and latents of its preset `tiny`."""
    folder = tmp_path_factory.mktemp("text")
    assert text_demo.run(shapes.get_config("tiny"), folder) == 0
    config = versions.read((folder / "denoiser" / "config.json").read_text())
    trained = shapes.get_config().denoiser
    text_width = config.model.text_width
    for section in ("model", "train", "optimizer", "objective"):
        config[section] = trained[section]
    config.model.text_width = text_width
    (folder / "denoiser" / "config.json").write_text(values.to_json(config))
    config.optimizer = recipes.load("digits").optimizer  # Muon's own operations are half of a step
    return folder / "denoiser", plan.plan(config, 1, ())["flops"]["step"] / (3 * config.train.batch_size)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TEXT.METHODS))
def test_a_step_of_text_to_image_takes_the_passes_that_the_sweep_counts(text_teacher, name):
    method = TEXT.METHODS[name]
    assert passes(method, *text_teacher) == pytest.approx(method.passes, rel=0.05)  # 3 % of a step is AdamW's


def test_all_students_have_one_cost_and_methods_without_a_teacher_its_cost_too():
    costs = {name: method.steps * method.passes * method.batch for name, method in SWEEP.METHODS.items()}
    scratch = {name for name, method in SWEEP.METHODS.items() if not method.recipe.startswith("students/")}
    for name, cost in costs.items():
        total = 300_000 + (691_200 if name in scratch else 0) - (81_920 if name == "reflow" else 0)
        assert cost == pytest.approx(total, rel=0.011), name
    for name, method in TEXT.METHODS.items():
        total = 200_000 - (81_920 if name == "reflow" else 0)
        assert method.steps * method.passes * method.batch == pytest.approx(total, rel=0.02), name


@pytest.mark.slow
def test_its_tiny_runs_are_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = commands.run("diffusion", "train", "--config=digits:tiny", f"--workdir={tmp_path}/runs/digits_tiny")
    assert trained.returncode == 0, trained.stderr
    record = definition.record(definition.load("digits_few_step:tiny"), "digits_few_step:tiny", tmp_path / "out")
    assert len(record.runs) == len(SWEEP.METHODS)


@pytest.mark.slow
def test_tiny_runs_of_text_to_image_are_valid(text_teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "text_tiny").symlink_to(text_teacher[0].parent)
    record = definition.record(definition.load("text_few_step:tiny"), "text_few_step:tiny", tmp_path / "out")
    assert len(record.runs) == len(TEXT.METHODS)
