"""The methods of few steps at one cost: the passes that the sweep states are those that a plan counts."""

import pytest

from diffusion.experiments import plan
from diffusion.experiments.sweeps import definition
from diffusion.recipe import recipes, values
from tests import commands

SWEEP = recipes.module("digits_few_step", recipes.SWEEPS)
SLOW = sorted(SWEEP.METHODS.keys() - {"lcm", "dmd"})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A folder with the config of the teacher, and the operations of a pass of its network over one example."""
    folder = tmp_path_factory.mktemp("digits")
    config = recipes.load("digits")
    (folder / "config.json").write_text(values.to_json(config))
    return folder, plan.plan(config, 1, ())["flops"]["model"] / (3 * config.train.batch_size)


@pytest.mark.extended
@pytest.mark.parametrize("name", ["lcm", "dmd", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_step_takes_the_passes_that_the_sweep_counts(teacher, name):
    folder, one_pass = teacher
    method = SWEEP.METHODS[name]
    config = recipes.load(f"{method.recipe}:{folder}" if method.recipe.startswith("students/") else method.recipe)
    operations = plan.plan(config, 1, ())["flops"]
    step = operations.get("step", operations.get("model"))
    assert config.train.batch_size == method.batch
    assert step / (one_pass * method.batch) == pytest.approx(method.passes, rel=0.02)


def test_all_students_have_one_cost_and_methods_without_a_teacher_its_cost_too():
    costs = {name: method.steps * method.passes * method.batch for name, method in SWEEP.METHODS.items()}
    scratch = {name for name, method in SWEEP.METHODS.items() if not method.recipe.startswith("students/")}
    for name, cost in costs.items():
        total = 300_000 + (691_200 if name in scratch else 0) - (81_920 if name == "reflow" else 0)
        assert cost == pytest.approx(total, rel=0.011), name


@pytest.mark.slow
def test_its_tiny_runs_are_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = commands.run("diffusion", "train", "--config=digits:tiny", f"--workdir={tmp_path}/runs/digits_tiny")
    assert trained.returncode == 0, trained.stderr
    record = definition.record(definition.load("digits_few_step:tiny"), "digits_few_step:tiny", tmp_path / "out")
    assert len(record.runs) == len(SWEEP.METHODS)
