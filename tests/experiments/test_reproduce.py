"""A step that fails is repeated by the command that the run prints, bit for bit, and what is not finite is named."""

import json
import os
import pathlib
import re
import shlex
import subprocess

import jax
import numpy as np
import pytest

from configs import digits
from diffusion.experiments import reproduce, train
from diffusion.experiments.run import failure
from diffusion.package.commands import as_process
from diffusion.recipe import Recipe, checks
from diffusion.training import state
from diffusion.training.checkpointing import checkpoints
from tests.reliability.driver import TINY

ROOT = pathlib.Path(__file__).parents[2]
STEPS = {"train.steps": 6, "train.log_every": 1, "checkpoint.every": 3, "evaluate.features": ("pixels",)}
EXPLODES = {"optimizer.learning_rate": 1e30, "optimizer.warmup": 0}  # the first update leaves weights of 1e30


pytestmark = pytest.mark.usefixtures("compilation_cache")


def tiny(**changes):
    config = digits.get_config()
    config.update_from_flattened_dict(TINY | STEPS | changes)
    return config


def command(words):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(as_process(words), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)


def files(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("healthy")
    assert train.run(tiny(), folder) == 0
    return folder


@pytest.fixture(scope="module")
def exploded(tmp_path_factory):
    """The folder of a run that failed in step 1 (counted from 0)."""
    folder = tmp_path_factory.mktemp("exploded")
    assert train.run(tiny(**EXPLODES), folder) == 1
    return folder


@pytest.mark.slow
def test_the_printed_command_repeats_the_failure_and_names_it(tmp_path, exploded, capsys):
    assert train.run(tiny(**EXPLODES), exploded) == 1  # once more, the same
    output = capsys.readouterr().out
    assert "not finite in step 1 " in output
    assert f"stored in {exploded}/failed/checkpoints/1." in output
    before = files(exploded)
    words = shlex.split(output.split("what is not finite:\n")[1].splitlines()[0])
    assert words == ["diffusion", "reproduce", f"--workdir={exploded}"]
    done = command(words)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "step 1 (counted from 0), examples 8 to 15: NOT FINITE"
    assert "every number is finite" in lines[2]  # the state before it
    assert re.search(r"its gradient: not finite in \d+ leaves", done.stdout)
    assert re.search(r"params/\w+/.*: \d+ numbers", done.stdout)
    assert re.search(r"[1-8] of 8 are not finite", done.stdout)
    assert re.search(r"example (8|9|1[0-5]), label \d, t 0\.\d+: loss (nan|inf)", done.stdout)
    assert re.search(
        r"the first (infinite|not a number): invalid value \((inf|nan)\) encountered in \w+, in \w+ "
        r"\(.*diffusion/.*\.py:\d+\)",
        done.stdout,
    )
    assert files(exploded) == before


@pytest.mark.slow
def test_the_state_that_is_kept_is_the_one_before_the_step(exploded):
    """It is one update away from the start, healthy, and no checkpoint of the run itself."""
    assert checkpoints.steps(exploded) == [] and checkpoints.steps(exploded / "failed") == [1]
    params, _ = checkpoints.load_params(exploded / "failed", 1)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(params))
    assert 1e29 < largest < 1e31  # Adam's first update is the learning rate in size
    assert checkpoints.read_about(exploded / "failed", 1)["examples"] == 8


@pytest.mark.slow
def test_a_change_of_the_config_is_tried_on_the_step(exploded):
    changed = checks.validate(tiny(**EXPLODES | {"parameterization.clock": {"name": "time"}}))
    repeated = reproduce.repeat(changed, exploded)
    assert repeated.step == 1 and not repeated.finite


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"train.accumulate": 2}])
def test_a_healthy_step_has_the_loss_of_the_metrics_and_of_its_examples(healthy, tmp_path, changes):
    folder = healthy
    if changes:
        folder = tmp_path
        assert train.run(tiny(**changes), folder) == 0
    rows = {row["step"]: row for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())}
    repeated = reproduce.repeat(checks.validate(tiny(**changes)), folder, 3)
    assert repeated.finite and repeated.origins == []
    for name in ("loss", "grad_norm"):
        assert float(f"{repeated.metrics[name]:.8g}") == rows[4][name]
    assert repeated.index.tolist() == list(range(24, 32))
    np.testing.assert_allclose(repeated.losses.mean(), repeated.metrics["loss"], rtol=1e-5)
    assert np.histogram(repeated.t, 10, (0, 1))[0].tolist() == rows[4]["count_by_t"]
    assert not any(repeated.gradient.values()) and not any(repeated.before.values())
    report = reproduce.report(repeated)
    assert report.startswith("step 3 (counted from 0), examples 24 to 31: finite\n") and "NOT" not in report


@pytest.mark.slow
def test_where_no_step_has_failed(healthy):
    with pytest.raises(checkpoints.CheckpointError, match=r"no step that has failed\. --step takes .*: 3, 6"):
        reproduce.repeat(Recipe.from_config(tiny()), healthy)
    with pytest.raises(checkpoints.CheckpointError, match=r"no checkpoint of step 4.* --step takes .*: 3, 6"):
        reproduce.repeat(Recipe.from_config(tiny()), healthy, 4)


def test_a_later_failure_takes_the_place_of_an_earlier_one(tmp_path):
    weights = {"w": np.float32([1.5])}
    frozen = jax.tree.map(jax.numpy.asarray, state.TrainState(np.int32(3), weights, weights, weights, (), np.int32(3)))
    assert failure.keep(tmp_path, frozen, {"examples": 24}).name == "3"
    failure.keep(tmp_path, frozen._replace(step=jax.numpy.asarray(2)), {"examples": 16})
    assert checkpoints.steps(tmp_path / "failed") == [2]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--devices-per-process=4"], ["--processes=2", "--devices-per-process=2"]])
def test_on_a_mesh_of_devices_and_processes(tmp_path, flags):
    """The same launcher starts both commands; the step that fails and the healthy one are those of the run."""
    processes = [] if any("processes=2" in flag for flag in flags) else ["--processes=1"]
    launch = ["diffusion", "launch", "local", *processes, *flags, "--", "diffusion"]
    values = {
        **TINY,
        **STEPS,
        "mesh.fsdp": 2,
        "optimizer.learning_rate": 1e30,
        "optimizer.warmup": 0,
        "train.batch_size": 8,
    }
    words = [f"--config.{name}={value}" for name, value in values.items() if not isinstance(value, tuple)]
    done = command([*launch, "train", "--config=digits", f"--workdir={tmp_path}", *words])
    assert "not finite in step 1 " in done.stdout, done.stderr
    done = command([*launch, "reproduce", f"--workdir={tmp_path}"])
    assert "step 1 (counted from 0), examples 8 to 15: NOT FINITE" in done.stdout, done.stderr
    assert ("the first" in done.stdout) == bool(processes)  # the operation is sought in one process alone
