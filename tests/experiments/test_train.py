"""The train script on the bundled digits with a network of a few thousand parameters."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from configs import digits
from diffusion.data import pipeline, sources
from diffusion.experiments import train
from diffusion.experiments.run import bookkeeping, training_evaluation
from diffusion.experiments.run_folder import workdir
from diffusion.recipe import ConfigError, Recipe
from diffusion.training import sharding, training_means
from diffusion.training.checkpointing import checkpoint_writer, checkpoints
from diffusion.training.runtime import preemption
from tests import commands, shared_programs

ROOT = pathlib.Path(__file__).parents[2]
TINY = {  # one compiled step serves most tests: what differs between them is not part of the program
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "train.steps": 20,
    "train.batch_size": 8,
    "train.log_every": 3,
    "checkpoint.every": 5,
    "checkpoint.keep": 3,
    "objective.density.strata": 8,
    "optimizer.warmup": 4,
    "optimizer.decay": "constant",
    "ema.decay": 0.9,
    "data.threads": 1,
    "sample.steps": 1,
    "sample.batch_size": 20,
    "evaluate.number": 20,
    "evaluate.features": ("pixels",),
}


pytestmark = pytest.mark.usefixtures("compilation_cache")


def tiny(**changes):
    config = digits.get_config()
    config.update_from_flattened_dict(TINY | changes)
    return config


@pytest.fixture(scope="module", autouse=True)
def one_program():
    """They differ in where they stop and save."""
    apart = ("checkpoint", "evaluate", "init_from", "train.steps", "train.log_every", "data.changed")
    with shared_programs.traced_once(*apart):
        yield


def at_batch(monkeypatch, number, action):
    """Calls a function at the request of the batch of step `number` (counted from 0)."""
    batches = pipeline.batches

    def watched(*args, start, batch_size, **options):
        inner = batches(*args, start=start, batch_size=batch_size, **options)
        for step, batch in enumerate(inner, start // batch_size):
            if step == number:
                action()
            yield batch

    monkeypatch.setattr(pipeline, "batches", watched)


def leaves(folder, step):
    """Shape, type and checksum of every leaf of a checkpoint, read back and verified."""
    checkpoints.load_ema(folder, step)
    return checkpoints.read_about(folder, step)["leaves"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Twenty steps, undisturbed."""
    folder = tmp_path_factory.mktemp("straight")
    assert train.run(tiny(), folder) == 0
    return folder


@pytest.mark.extended
def test_run_folder(straight):
    assert checkpoints.steps(straight) == [10, 15, 20]
    rows = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6, 9, 12, 15, 18, 20]
    assert rows[0].keys() >= {"loss", "grad_norm", "learning_rate", "loss_by_t", "count_by_t"}
    assert sum(rows[0]["count_by_t"]) == 3 * 8 and sum(rows[-1]["count_by_t"]) == 2 * 8
    timing = [json.loads(line) for line in (straight / "timing.jsonl").read_text().splitlines()]
    assert [row["step"] for row in timing] == [row["step"] for row in rows]
    assert json.loads((straight / "config.json").read_text())["train"]["steps"] == 20
    assert list(straight.glob("events.*"))
    assert checkpoints.read_about(straight, 20)["examples"] == 160


@pytest.mark.extended
def test_interrupted_equals_undisturbed_bit_for_bit(straight, tmp_path, monkeypatch, capsys):
    """Stopped by SIGTERM at step 8, by SIGINT at 11, and killed at 14: parameters, average, optimizer and metrics."""
    for number, name in ((7, signal.SIGTERM), (10, signal.SIGINT)):
        with monkeypatch.context() as patch:
            at_batch(patch, number, lambda name=name: signal.raise_signal(name))
            assert train.run(tiny(), tmp_path, "THE COMMAND") == 128 + name
        assert checkpoints.latest(tmp_path) == number + 1
        assert "To go on:\n  THE COMMAND" in capsys.readouterr().out

    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    with monkeypatch.context() as patch:
        at_batch(patch, 18, kill)
        with pytest.raises(Killed):
            train.run(tiny(), tmp_path)
    assert checkpoints.latest(tmp_path) == 15
    assert "from step 11 of 20" in capsys.readouterr().out
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 99, "lo')  # the line that it was writing
    assert train.run(tiny(), tmp_path) == 0
    assert leaves(tmp_path, 20) == leaves(straight, 20)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_run_in_fp8_resumes_bit_for_bit(straight, tmp_path, monkeypatch):
    """Its scales are those of the arrays at hand, so that nothing of them has to be kept."""
    config = tiny(**{"train.products": "fp8"})
    assert train.run(config, tmp_path / "straight") == 0
    with monkeypatch.context() as patch:
        at_batch(patch, 7, lambda: signal.raise_signal(signal.SIGTERM))
        assert train.run(config, tmp_path / "resumed") == 128 + signal.SIGTERM
    assert train.run(config, tmp_path / "resumed") == 0
    assert leaves(tmp_path / "resumed", 20) == leaves(tmp_path / "straight", 20) != leaves(straight, 20)


@pytest.mark.extended
def test_the_host_waits_for_the_metrics_of_two_steps_before_and_not_for_those_of_the_last(tmp_path, monkeypatch):
    """A device that waits until the host has read a loss computes nothing meanwhile."""
    dispatched, waits = [], []
    to_devices, add = sharding.to_devices, training_means.add
    monkeypatch.setattr(sharding, "to_devices", lambda *batch: dispatched.append(1) or to_devices(*batch))
    monkeypatch.setattr(training_means, "add", lambda *metrics: waits.append(len(dispatched)) or add(*metrics))
    assert train.run(tiny(**{"train.steps": 7}), tmp_path) == 0
    assert waits == [3, 4, 5, 5, 5, 7, 7]  # before the saves of steps 5 and 7 it takes in all of them


@pytest.mark.extended
def test_average_is_not_the_parameters(straight):
    """The comparison above would not see an average that is never made, or reset at each start."""
    average, _ = checkpoints.load_ema(straight)
    params, _ = checkpoints.load_params(straight)
    assert any(np.any(np.asarray(a) != np.asarray(p)) for a, p in zip(*map(jax.tree.leaves, (average, params))))


@pytest.mark.extended
def test_finished_run_says_so_and_more_steps_go_on(tmp_path, capsys):
    config = tiny(**{"train.steps": 4})
    assert train.run(config, tmp_path) == 0
    assert train.run(config, tmp_path) == 0
    assert "is finished: step 4 of 4" in capsys.readouterr().out
    assert train.run(tiny(**{"train.steps": 6}), tmp_path) == 0
    assert checkpoints.latest(tmp_path) == 6
    assert workdir.read_config(tmp_path).train.steps == 6
    assert train.run(config, tmp_path) == 0
    said = capsys.readouterr().out
    assert "is finished: step 6 of 4" in said and "train on with --config.train.steps=12." in said


def test_the_command_ends_with_the_status_of_its_run(monkeypatch):
    monkeypatch.setattr(train, "run", lambda *_: 143)
    monkeypatch.setattr(train.flags, "FLAGS", types.SimpleNamespace(config=None, workdir=None, wandb=None))
    monkeypatch.setattr(train.workdir, "command", lambda name: name)
    with pytest.raises(SystemExit) as ended:
        train.main([])
    assert ended.value.code == 143


@pytest.mark.extended
def test_a_run_whose_folder_is_removed_stops(tmp_path, monkeypatch):
    """At its next line, instead of computing what nobody will find; and a save does not make the folder anew."""
    at_batch(monkeypatch, 4, lambda: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(workdir.WorkdirError, match=f"{tmp_path}/run cannot be written: its config.json is gone"):
        train.run(tiny(**{"train.log_every": 100}), tmp_path / "run")


@pytest.mark.extended
def test_damaged_checkpoint_is_skipped_loudly(tmp_path, capsys):
    config = tiny(**{"train.steps": 10})
    assert train.run(config, tmp_path) == 0
    (tmp_path / "checkpoints/10/about/metadata").write_text("{")
    assert train.run(config, tmp_path) == 0
    output = capsys.readouterr()
    assert "FALLING BACK to step 5" in output.err and "from step 5 of 10" in output.out
    assert checkpoints.steps(tmp_path) == [5, 10]


@pytest.mark.extended
def test_failure_stops_names_the_step_and_saves_nothing_bad(tmp_path, monkeypatch, capsys):
    """Parameters beyond reason from step 5 on; once more, and it fails in the very same step."""
    config = tiny(**{"train.log_every": 1})
    with monkeypatch.context() as patch:
        at_batch(patch, 4, lambda: signal.raise_signal(signal.SIGTERM))
        assert train.run(config, tmp_path) == 143
    before = (tmp_path / "metrics.jsonl").read_bytes()
    restore = checkpoints.restore_latest

    def restore_beyond_reason(*args):
        state, about = restore(*args)
        return state._replace(params=jax.tree.map(lambda leaf: leaf * 1e30, state.params)), about

    monkeypatch.setattr(checkpoints, "restore_latest", restore_beyond_reason)
    for _ in range(2):
        assert train.run(config, tmp_path) == 1
        output = capsys.readouterr().out
        assert "not finite in step 5 " in output and "The last good checkpoint is step 5." in output
        assert f"--config.init_from.path={tmp_path}/checkpoints/5" in output
        assert checkpoints.steps(tmp_path) == [5]
        assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_evaluation_in_the_loop(tmp_path, monkeypatch):
    """Also where the run is stopped between a step and its evaluation."""
    config = tiny(**{"train.steps": 6, "evaluate.every": 3})
    assert train.run(config, tmp_path / "straight") == 0
    rows = [json.loads(line) for line in (tmp_path / "straight/metrics.jsonl").read_text().splitlines()]
    figures = {row["step"]: row["evaluate"] for row in rows if "evaluate" in row}
    assert figures.keys() == {3, 6} and figures[3]["fd_pixels"] > 0
    for pattern in ("previews/*.png", "previews/trajectories/*.png"):
        assert sorted(path.name for path in (tmp_path / "straight").glob(pattern)) == ["3.png", "6.png"]
    with monkeypatch.context() as patch:
        at_batch(patch, 2, lambda: signal.raise_signal(signal.SIGTERM))
        assert train.run(config, tmp_path / "stopped") == 143
    assert train.run(config, tmp_path / "stopped") == 0
    assert (tmp_path / "stopped/metrics.jsonl").read_bytes() == (tmp_path / "straight/metrics.jsonl").read_bytes()


def scripted(monkeypatch, evaluate):
    """The evaluation of each step, without its samples."""
    monkeypatch.setattr(training_evaluation, "evaluation", lambda *_: evaluate)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


EVALUATED = {"train.steps": 6, "evaluate.every": 3, "checkpoint.every": 6}


@pytest.mark.extended
def test_a_step_is_saved_once_where_its_evaluation_is_due_too(tmp_path, monkeypatch):
    saved = []
    save = checkpoint_writer.Checkpoints.save

    def counted(self, state, about):
        saved.append(int(state.step))
        save(self, state, about)

    monkeypatch.setattr(checkpoint_writer.Checkpoints, "save", counted)
    scripted(monkeypatch, lambda params, step, stop: {"fd_pixels": 1.0})
    assert train.run(tiny(**EVALUATED), tmp_path) == 0
    assert saved == [3, 6]


@pytest.mark.extended
@pytest.mark.parametrize("failed", [pytest.param("skip", marks=pytest.mark.slow), "stop"])
def test_an_evaluation_that_fails_costs_no_step(tmp_path, monkeypatch, capsys, failed):
    """The step is saved before it; the failure is recorded, and the run goes on at once or with the next command."""
    seen = []

    def evaluate(params, step, stop):
        seen.append(step)
        assert checkpoints.latest(tmp_path) == step
        if step == 3:
            raise training_evaluation.EvaluationFailed("MemoryError: 8 GiB")
        return {"fd_pixels": 1.0}

    scripted(monkeypatch, evaluate)
    config = tiny(**EVALUATED, **{"evaluate.failed": failed})
    if failed == "stop":
        with pytest.raises(bookkeeping.EvaluationStopped, match=r"MemoryError: 8 GiB.*saved at step 3"):
            train.run(config, tmp_path)
    assert train.run(config, tmp_path) == 0
    found = [row for row in rows_of(tmp_path) if "loss" not in row]
    failure, figures = {"evaluation_failed": "MemoryError: 8 GiB"}, {"evaluate": {"fd_pixels": 1.0}}
    assert found == [{"step": 3, **failure}, {"step": 6, **figures}]
    assert seen == [3, 6] and "the evaluation failed: MemoryError: 8 GiB" in capsys.readouterr().out


@pytest.mark.parametrize("lines, goes_on", [
    ((), True), (({"step": 3, "evaluate": {}},), True), (({"step": 6, "evaluate": {}},), True),
    (({"step": 6, "evaluate": {}}, {"step": 6, "held_out_loss": {}}), False),
    (({"step": 6, "evaluation_failed": ""}, {"step": 6, "held_out_loss": {}}), False),
])  # fmt: skip
def test_a_run_that_was_killed_before_its_last_evaluation_is_not_finished(tmp_path, monkeypatch, lines, goes_on):
    config = tiny(**EVALUATED, **{"evaluate.loss.every": 6})
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    workdir.settle_config(tmp_path, config)
    monkeypatch.setattr(checkpoints, "latest", lambda folder: 6)
    monkeypatch.setattr(train, "run", lambda *arguments: "goes on")
    assert train.unless_finished(config, tmp_path) == ("goes on" if goes_on else 0)


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, 6])
def test_a_run_stopped_while_it_evaluates_evaluates_when_it_goes_on(tmp_path, monkeypatch, capsys, at):
    """Each step once, the last one too, and with the lines of a run that nothing disturbed."""
    interrupt, seen = [at], []

    def evaluate(params, step, stop):
        if step in interrupt:
            interrupt.remove(step)
            with stop.interrupting():
                signal.raise_signal(signal.SIGTERM)
                time.sleep(600)
        seen.append(step)
        return {"fd_pixels": float(step)}

    scripted(monkeypatch, evaluate)
    config = tiny(**EVALUATED, **{"checkpoint.best": "fd_pixels", "checkpoint.keep": 1})
    assert train.run(config, tmp_path / "stopped") == 143
    assert f"stopped at step {at} of 6, saved in" in capsys.readouterr().out
    assert train.run(config, tmp_path / "stopped") == 0 and seen == [3, 6]
    assert train.run(config, tmp_path / "straight") == 0
    assert (tmp_path / "stopped/metrics.jsonl").read_bytes() == (tmp_path / "straight/metrics.jsonl").read_bytes()
    assert checkpoints.steps(tmp_path / "stopped") == checkpoints.steps(tmp_path / "straight") == [3, 6]
    assert train.run(config, tmp_path / "stopped") == 0 and "is finished" in capsys.readouterr().out


@pytest.mark.parametrize("error", [MemoryError("8 GiB"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory")])
def test_whatever_an_evaluation_raises_is_its_failure(tmp_path, monkeypatch, error):
    """But a mistake in the config, which ends the run."""

    def images(params, labels, seeds, progress):
        raise error

    config = tiny()
    recipe = Recipe.from_config(config, (8, 8, 1))
    made = training_evaluation.generate.Generator(images, None, 1)
    monkeypatch.setattr(training_evaluation.generate, "generator", lambda *_: made)
    evaluate = training_evaluation.evaluation(recipe, tmp_path, None)
    where = r"\(test_train.py, line \d+\)"
    with pytest.raises(training_evaluation.EvaluationFailed, match=rf"{type(error).__name__}: .* {where}"):
        evaluate(None, 3, preemption.StopRequest())
    error = ConfigError("config.evaluate.split")
    with pytest.raises(ConfigError):
        evaluate(None, 3, preemption.StopRequest())


def test_samples_are_left_between_two_batches(tmp_path, monkeypatch):
    def images(params, labels, seeds, progress):
        progress(20)
        pytest.fail("the next batch")

    config = tiny()
    stop = preemption.StopRequest()
    made = training_evaluation.generate.Generator(images, None, 1)
    monkeypatch.setattr(training_evaluation.generate, "generator", lambda *_: made)
    evaluate = training_evaluation.evaluation(Recipe.from_config(config, (8, 8, 1)), tmp_path, None)
    with stop, pytest.raises(preemption.Interrupted):
        signal.raise_signal(signal.SIGTERM)
        evaluate(None, 3, stop)


@pytest.mark.extended
@pytest.mark.parametrize("change", ["fewer", "others"])
def test_a_dataset_replaced_between_stop_and_resume_is_refused(straight, tmp_path, monkeypatch, change, capsys):
    shutil.copytree(straight, tmp_path / "run")
    real = sources.Records._read
    if change == "fewer":
        monkeypatch.setattr(sources.Records, "__len__", lambda self: 40)
    else:
        monkeypatch.setattr(sources.Records, "_read", lambda self, rows: real(self, [row ^ 1 for row in rows]))
    words = "number of records 1258 -> 40" if change == "fewer" else "digest of sampled records [0-9a-f]{32} -> "
    with pytest.raises(ConfigError, match=rf"{words}.*--config.data.changed=accept"):
        train.run(tiny(**{"train.steps": 21}), tmp_path / "run")
    assert checkpoints.steps(tmp_path / "run") == [10, 15, 20]
    assert workdir.read_config(tmp_path / "run").train.steps == 20  # as before the command that was refused
    assert train.run(tiny(**{"train.steps": 21, "data.changed": "accept"}), tmp_path / "run") == 0
    assert checkpoints.read_about(tmp_path / "run", 21)["data"] != checkpoints.read_about(straight, 20)["data"]


@pytest.mark.extended
def test_a_checkpoint_of_earlier_versions_goes_on_in_its_order_of_records(straight, tmp_path, monkeypatch):
    """It has neither a fingerprint of the data nor the version of their order, which was 1."""
    shutil.copytree(straight, tmp_path / "run")
    path = tmp_path / "run/checkpoints/20/about/metadata"
    written = json.loads(path.read_text())
    del written["about"]["data"]
    assert written["about"].pop("order") == pipeline.ORDER
    written["sha256"] = checkpoints.digest(written["about"])
    path.write_text(json.dumps(written))
    batches = pipeline.batches
    orders = []
    monkeypatch.setattr(pipeline, "batches", lambda *of, **how: orders.append(how["order"]) or batches(*of, **how))
    for steps in (21, 22):
        assert train.run(tiny(**{"train.steps": steps}), tmp_path / "run") == 0
    assert orders == [1, 1] and checkpoints.read_about(tmp_path / "run", 22)["order"] == 1


@pytest.mark.slow
def test_the_best_checkpoint_is_kept(tmp_path, monkeypatch, capsys):
    """By the figures 5, 3, 4, 6 of steps 2, 4, 6, 8 that is step 4, also where the run is stopped after it."""
    scripted = {2: 5.0, 4: 3.0, 6: 4.0, 8: 6.0}
    evaluate = lambda params, step, stop: {"fd_pixels": scripted[step]}
    monkeypatch.setattr(training_evaluation, "evaluation", lambda *_: evaluate)
    config = tiny(
        **{
            "train.steps": 8,
            "evaluate.every": 2,
            "checkpoint.every": 3,
            "checkpoint.keep": 1,
            "checkpoint.best": "fd_pixels",
        }
    )
    assert train.run(config, tmp_path / "straight") == 0
    assert checkpoints.steps(tmp_path / "straight") == [4, 8]
    with monkeypatch.context() as patch:
        at_batch(patch, 6, lambda: signal.raise_signal(signal.SIGTERM))
        assert train.run(config, tmp_path / "stopped") == 143
    assert 4 in checkpoints.steps(tmp_path / "stopped")
    assert train.run(config, tmp_path / "stopped") == 0
    assert checkpoints.steps(tmp_path / "stopped") == [4, 8]
    assert capsys.readouterr().out.count("the least fd_pixels so far") == 4  # steps 2 and 4, twice
    best = checkpoints.read_about(tmp_path / "stopped", 8)["best"]
    assert best.pop("settings") and best == {"figure": "fd_pixels", "step": 4, "value": 3.0}


@pytest.mark.slow
def test_starts_from_another_run(straight, tmp_path, capsys):
    config = tiny(**{"train.steps": 1, "seed": 5, "optimizer.learning_rate": 1e-6})  # the one step moves nothing far
    config.init_from.path = str(straight)
    config.init_from.include = "^(?!.*blocks)"
    assert train.run(config, tmp_path) == 0
    theirs = checkpoints.load_ema(straight)[0]
    ours = checkpoints.load_params(tmp_path)[0]
    same = jax.tree_util.tree_map_with_path(
        lambda path, a, b: ("blocks" in jax.tree_util.keystr(path), np.allclose(a, b, atol=1e-5)), theirs, ours
    )
    pairs = jax.tree.leaves(same, is_leaf=lambda x: isinstance(x, tuple))
    assert all(equal for inside, equal in pairs if not inside)
    assert not all(equal for inside, equal in pairs if inside)
    output = capsys.readouterr().out
    assert "skipped" in output and "blocks" in output


@pytest.mark.slow
def test_muon_resumes_bit_for_bit(tmp_path):
    changes = {"optimizer.name": "muon", "checkpoint.every": 2}
    for name, stops in (("whole", (4,)), ("parts", (2, 4))):
        for steps in stops:
            assert train.run(tiny(**changes, **{"train.steps": steps}), tmp_path / name) == 0
    assert leaves(tmp_path / "whole", 4) == leaves(tmp_path / "parts", 4)


@pytest.mark.slow
def test_unconditional_with_accumulation(tmp_path):
    config = tiny(
        **{
            "train.steps": 2,
            "train.accumulate": 2,
            "model.num_classes": 0,
            "objective.wrappers": (),
            "sample.guidance.scale": 1.0,
        }
    )
    assert train.run(config, tmp_path) == 0
    assert checkpoints.latest(tmp_path) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mesh.data": 7, "train.batch_size": 7, "objective.density.strata": 7}, "config.mesh"),
        ({"train.batch_size": 0}, "config.train.batch_size = 0"),
        ({"data.name": "no_such_data"}, "config.data.*no_such_data"),
        ({"data.split": "no_such_split"}, "config.data.*no_such_split"),
    ],
)
def test_mistakes_are_reported_before_anything_is_made(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        train.run(tiny(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_config_in_the_folder(tmp_path):
    workdir.settle_config(tmp_path, tiny())
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):
        train.run(tiny(seed=1), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before and checkpoints.latest(tmp_path) is None


def test_folder_in_use(tmp_path):
    with workdir.lock(tmp_path), pytest.raises(workdir.WorkdirError, match="in use"):
        train.run(tiny(), tmp_path)


def command_line(*arguments, **options):
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-u", "-m", "diffusion", "train", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_ctrl_c_on_the_command_line(tmp_path):
    """Ctrl-C saves, ends with 130, and prints a command that goes on."""
    flags = [f"--config.{name}={value}" for name, value in TINY.items() if not isinstance(value, tuple)]
    flags += ["--config.train.steps=99999", "--config.checkpoint.every=100000"]
    first = command_line("--config=configs/digits.py", f"--workdir={tmp_path}/run", *flags)
    for line in first.stdout:
        if line.startswith("first step"):
            break
    first.send_signal(signal.SIGINT)
    output, errors = first.communicate(timeout=60)
    assert first.returncode == 130, errors
    stopped = checkpoints.latest(tmp_path / "run")
    assert f"stopped at step {stopped} of 99999" in output and stopped >= 1
    words = shlex.split(output.split("To go on:\n")[1])
    assert words[:2] == ["diffusion", "train"]
    second = command_line(*words[2:], f"--config.train.steps={stopped + 1}")
    output, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert f"from step {stopped} of {stopped + 1}" in output
    assert checkpoints.latest(tmp_path / "run") == stopped + 1


@pytest.mark.slow
def test_two_processes_equal_one(straight, tmp_path):
    """Each reads its half of every batch; the losses agree with those of one process up to the order of sums."""
    flags = [f"--config.{name}={value}" for name, value in TINY.items() if not isinstance(value, tuple)]
    train_command = ["diffusion", "train", "--config=digits", f"--workdir={tmp_path}", *flags]
    command = [sys.executable, "-m", "diffusion", "launch", "local", "--processes=2", "--", *train_command]
    command += ["--config.evaluate.every=10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (straight, tmp_path)
    ]
    one, two = ([(row["step"], row["loss"]) for row in run if "loss" in row] for run in rows)
    np.testing.assert_allclose(two, one, rtol=1e-5)
    counts = [[row["count_by_t"] for row in run if "loss" in row] for run in rows]
    assert counts[0] == counts[1]
    assert [row["step"] for row in rows[1] if "evaluate" in row] == [10, 20]


def test_help_shows_an_example():
    output = commands.run("diffusion", "train", "--help").stdout
    assert "diffusion train --config=digits --workdir=runs/digits" in output
    assert "--workdir" in output and "--config" in output and "143" in output
