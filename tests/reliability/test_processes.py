"""If one of a run's two processes dies or hangs, the other stops with an error within a minute, and a restart works."""

import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest

from diffusion.data import sources
from diffusion.launch import local
from diffusion.training.checkpointing import checkpoints
from tests.data.made import png
from tests.experiments.run import made_tuning
from tests.reliability.driver import ROOT, train_command, two_processes, until
from tests.reliability.test_kills import values

BOUND = 60.0  # seconds in which the other process must stop
ENDLESS = {"train.steps": 10**6, "checkpoint.every": 20}


def start_two(driver, workdir, changes, kills=(None, None)):
    """Starts both processes without a launcher that watches them, as SLURM does."""
    environments = two_processes(local.free_port())
    return [
        driver.start(*train_command(workdir, changes), env={**env, "DIFFUSION_HEARTBEAT_SECONDS": "30"}, kill=kill)
        for env, kill in zip(environments, kills)
    ]


def stopped(driver, run):
    """Waits for the surviving process, which must end by itself in time with an error; returns its result."""
    began = time.monotonic()
    result = driver.wait(run)
    assert result.status not in (0, -signal.SIGKILL) and time.monotonic() - began < BOUND, result
    assert re.search(r"another (process|task)|heartbeat|unhealthy|task died", result.err), result.err
    return result


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other(driver, tmp_path, victim):
    """A process is killed during training; both then start again, and compute the bits of an undisturbed run."""
    runs = start_two(driver, tmp_path / "run", ENDLESS)
    until(lambda: checkpoints.latest(tmp_path / "run"))
    os.kill(runs[victim][0], signal.SIGKILL)
    result = stopped(driver, runs[1 - victim])
    if victim == 1:
        assert result.status == 1 and "the run goes on from its last checkpoint" in result.err
        assert "Traceback" not in result.err
    assert driver.wait(runs[victim]).status == -signal.SIGKILL
    last = checkpoints.latest(tmp_path / "run")
    for folder in ("run", "straight")[: 2 if victim == 1 else 1]:
        runs = start_two(driver, tmp_path / folder, {"train.steps": last + 2})
        results = [driver.wait(run) for run in runs]
        assert [result.status for result in results] == [0, 0], results
        assert (f"from step {last} of {last + 2}" in results[0].out) == (folder == "run")
    if victim == 1:
        assert values(tmp_path / "run", last + 2) == values(tmp_path / "straight", last + 2)
        same = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "straight")]
        assert same[0] == same[1]


@pytest.mark.slow
def test_two_processes_tune_a_model_and_one_writes_its_files(driver, tmp_path):
    """Both processes read the checkpoint, and one writes the files; a finished run writes missing files again."""
    made = made_tuning.config(tmp_path, {})
    run = tmp_path / "run"
    fields = {"base.path": made.base.path, "data.source.path": tmp_path / "pictures", "data.source.side": 16}
    fields |= {"data.text.prompt": "a cat", "data.threads": 0, "tuning.rank": 1}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    for _ in range(2):
        environments = two_processes(local.free_port())
        command = ["experiments.train", "--config=configs/tuning/lora.py:tiny", f"--workdir={run}", *flags]
        both = [driver.start(*command, env=env) for env in environments]
        results = [driver.wait(each) for each in both]
        assert [result.status for result in results] == [0, 0], results
        assert (run / "tuning" / "pytorch_lora_weights.safetensors").is_file()
        shutil.rmtree(run / "tuning")


def shards(folder):
    """Writes two tar shards with the first 20 digits; returns the config of a stream of them."""
    folder.mkdir()
    digits = sources.open_source("digits", "train")[0]
    for part, rows in enumerate((range(13), range(13, 20))):
        with tarfile.open(folder / f"train-{part}.tar", "w") as archive:
            for row in rows:
                members = {"png": png(digits[row]["image"][..., 0]), "cls": str(digits[row]["label"]).encode()}
                for suffix, content in members.items():
                    info = tarfile.TarInfo(f"{row:04}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return {"name": "tar_stream", "path": str(folder), "classes": [str(k) for k in range(10)], "window": 6}


@pytest.mark.slow
def test_processes_share_a_stream_and_may_change_in_number(driver, tmp_path):
    """Two, one and two processes in turn continue a stream past its end, as one process does up to rounding."""
    changes = {"data.source": json.dumps(shards(tmp_path / "shards")), "train.log_every": 1}
    for number, steps in ((2, 2), (1, 4), (2, 6)):
        settings = changes | {"train.steps": steps}
        if number == 1:
            assert driver.train(tmp_path / "changing", settings).status == 0
            continue
        runs = start_two(driver, tmp_path / "changing", settings)
        assert [driver.wait(run).status for run in runs] == [0, 0]
    assert driver.train(tmp_path / "one", changes | {"train.steps": 6}).status == 0
    abouts = [checkpoints.read_about(tmp_path / name, 6) for name in ("one", "changing")]
    assert abouts[0]["stream"] == abouts[1]["stream"] and abouts[0]["data"] == abouts[1]["data"]
    assert (abouts[0]["stream"]["epoch"], abouts[0]["stream"]["read"]) == (2, 8)  # 48 = 20 + 20 + 8
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "changing")
    ]
    assert len(losses[0]) == 6 and losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_two_processes_evaluate_on_their_mesh_and_keep_one_best_checkpoint(driver, tmp_path):
    """Two processes find the figures of one process up to the order of sums, so they keep the same best step."""
    changes = {
        "train.steps": 8,
        "evaluate.every": 2,
        "evaluate.features": "('pixels',)",
        "checkpoint.every": 3,
        "checkpoint.keep": 1,
        "checkpoint.best": "fd_pixels",
        "sample.batch_size": 7,
    }
    runs = start_two(driver, tmp_path / "two", changes)
    assert [driver.wait(run).status for run in runs] == [0, 0]
    assert driver.train(tmp_path / "one", changes).status == 0
    found = {}
    for name in ("one", "two"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        found[name] = {line["step"]: line["evaluate"]["fd_pixels"] for line in lines if "evaluate" in line}
        best = min(found[name], key=found[name].get)
        assert checkpoints.steps(tmp_path / name) == sorted({best, 8})
        assert checkpoints.read_about(tmp_path / name, 8)["best"]["step"] == best
        seen = {path.name for path in (tmp_path / name / "previews").glob("*.png")}
        assert seen == {f"{i}.png" for i in (2, 4, 6, 8)}
    assert found["one"].keys() == {2, 4, 6, 8}
    assert found["two"] == pytest.approx(found["one"], rel=1e-2)  # a byte may round to its neighbour


@pytest.mark.slow
def test_processes_without_a_shared_folder_refuse_to_train(driver, tmp_path):
    """A relative --workdir on two hosts means two different folders."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    command = train_command("run")
    command[1] = f"--config={ROOT}/configs/digits.py"
    began = time.monotonic()
    runs = [
        driver.start(*command, env=env, cwd=tmp_path / name)
        for name, env in zip("ab", two_processes(local.free_port()))
    ]
    for result in [driver.wait(run) for run in runs]:
        assert result.status == 1 and "Traceback" not in result.err
        assert re.fullmatch(
            rf"error: --workdir=run is not the same folder .* 1 \(.*{tmp_path}/b/run\) .*\n", result.err
        )
    assert time.monotonic() - began < 150 and not checkpoints.steps(tmp_path / "a/run")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_cannot_read_ends_both_in_a_sentence(driver, tmp_path, victim):
    """If one host may not read the checkpoint, both processes end with status 1, and nothing is renamed."""
    assert driver.train(tmp_path, {"train.steps": 4}).status == 0
    path = tmp_path / "checkpoints/4/training/manifest.ocdbt"
    path.chmod(0)
    before = sorted((tmp_path / "checkpoints").rglob("*"))
    runs = [
        driver.start(*train_command(tmp_path, {"train.steps": 6}), env=env, rights=index != victim)
        for index, env in enumerate(two_processes(local.free_port()))
    ]
    results = [driver.wait(run) for run in runs]
    assert [result.status for result in results] == [1, 1], results
    assert "ermission denied" in results[victim].err and f"by process {victim} of this run" in results[1 - victim].err
    assert all(result.err.startswith("error: ") and "Traceback" not in result.err for result in results)
    assert sorted((tmp_path / "checkpoints").rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("part", ["samples", "alone"])
def test_a_signal_while_two_processes_evaluate(driver, tmp_path, part):
    """Process 1 gets the signal between two batches, or while it waits for process 0; both stop, and evaluate later."""
    changes = ENDLESS | {"evaluate.every": 2, "evaluate.number": 10**5 if part == "samples" else 20}
    hang = {"point": ["mkdir previews", "before"], "number": 1, "seconds": 90, "does": "wait"}
    runs = start_two(driver, tmp_path, changes, (None if part == "samples" else hang, None))
    until(lambda: checkpoints.steps(tmp_path) == [2])
    if part == "alone":
        until(lambda: pathlib.Path(f"{runs[0][1]}.points").read_text())
    time.sleep(10)
    os.kill(runs[1][0], signal.SIGTERM)
    began = time.monotonic()
    results = [driver.wait(run) for run in runs]
    assert [result.status for result in results] == [143, 143], results
    assert time.monotonic() - began < 30 and "the evaluation is left out for now" in results[0].out
    again = driver.train(tmp_path, {"train.steps": 4, "evaluate.every": 2})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert again.status == 0 and [row["step"] for row in rows if "evaluate" in row] == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_killed_while_saving_ends_the_other(driver, tmp_path, victim):
    """The other process waits at a barrier of the save, where only the missing heartbeat reveals the failure."""
    kills = [None, None]
    kills[victim] = {"point": ["data begun", "after"], "number": 3, "seconds": 0}
    runs = start_two(driver, tmp_path, ENDLESS, kills)
    assert driver.wait(runs[victim]).status == -signal.SIGKILL
    stopped(driver, runs[1 - victim])
    again = driver.train(tmp_path, {"train.steps": 30})  # as one process: any number may continue a run
    assert again.status == 0 and "FALLING BACK" not in again.err


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_hangs_ends_the_other(driver, tmp_path, victim):
    """A stopped process acts like a machine that hangs: its connections stay open, but its heartbeat is missing."""
    runs = start_two(driver, tmp_path, ENDLESS)
    until(lambda: checkpoints.latest(tmp_path))
    os.kill(runs[victim][0], signal.SIGSTOP)
    try:
        stopped(driver, runs[1 - victim])
    finally:
        os.kill(runs[victim][0], signal.SIGKILL)


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_launcher_with_its_words(driver, tmp_path):
    """Process 0 finds the folder in use and ends at once; JAX alone would make it wait for the other process."""
    alone = driver.start(*train_command(tmp_path, ENDLESS))
    until(lambda: pathlib.Path(tmp_path, "checkpoints").exists())
    module, *arguments = train_command(tmp_path, ENDLESS)
    command = [sys.executable, "-m", "launch.local", "--processes=2", "--", "python", "-m", module, *arguments]
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 1 and time.monotonic() - began < BOUND
    assert "is in use" in done.stderr.splitlines()[-1]
    os.kill(alone[0], signal.SIGKILL)
    driver.wait(alone)


@pytest.mark.slow
def test_the_launcher_ends_the_others(tmp_path):
    module, *arguments = train_command(tmp_path, ENDLESS)
    command = [sys.executable, "-m", "launch.local", "--processes=2", "--", "python", "-m", module, *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as launcher:
        until(lambda: checkpoints.latest(tmp_path))
        children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGKILL)
        began = time.monotonic()
        _, errors = launcher.communicate(timeout=BOUND)
        assert launcher.returncode == 137 or launcher.returncode == 1, errors
        assert time.monotonic() - began < BOUND and "failed with exit status" in errors
        assert not any(pathlib.Path(f"/proc/{child}").exists() for child in children)


# When one process ends, JAX waits only 2 s for the other; process 0 works 6 s longer.
IMPATIENT = {"DIFFUSION_SHUTDOWN_SECONDS": "2"}
LONGER = 6
WANDB = f"""
import pathlib, sys, time
Settings = Image = lambda *_, **__: None
class init:
    def __init__(self, dir, **_):
        self.folder = pathlib.Path(dir)
    def define_metric(self, *_, **__):
        pass
    def log(self, row):
        if (self.folder / "refuse").exists():
            raise RuntimeError("the service says no")
    def finish(self, exit_code):
        time.sleep({LONGER})
        (self.folder / "finished").write_text(str(exit_code))
"""


def start_both(driver, *command):
    """Starts a command as two processes, with JAX's wait for the other process cut to 2 s."""
    return [driver.start(*command, env={**env, **IMPATIENT}) for env in two_processes(local.free_port())]


@pytest.fixture
def with_wandb(tmp_path):
    """The flags of a run that logs to a stand-in for Weights & Biases, which is slow to finish."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(WANDB)
    (tmp_path / "extension.py").write_text(f"import sys\nsys.path.insert(0, {str(tmp_path / 'modules')!r})\n")
    return [f"--extend={tmp_path / 'extension.py'}", "--wandb=x"]


@pytest.mark.slow
def test_no_process_leaves_before_process_0_has_finished_what_it_logs(driver, tmp_path, with_wandb):
    runs = start_both(driver, *train_command(tmp_path / "run", {"train.steps": 4}), *with_wandb)
    results = [driver.wait(run) for run in runs]
    assert [result.status for result in results] == [0, 0], results
    assert (tmp_path / "run" / "finished").read_text() == "0"


@pytest.mark.slow
def test_an_error_without_a_sentence_ends_its_process_at_once(driver, tmp_path, with_wandb):
    """Process 0 alone fails in the middle of a run; JAX alone would let both processes wait for each other."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "refuse").touch()
    limits = {"DIFFUSION_SHUTDOWN_SECONDS": "200", "DIFFUSION_HEARTBEAT_SECONDS": "30"}
    runs = [
        driver.start(*train_command(tmp_path / "run", ENDLESS), *with_wandb, env={**env, **limits})
        for env in two_processes(local.free_port())
    ]
    result = driver.wait(runs[0], 100)
    assert result.status == 1 and result.err.splitlines()[-1] == "RuntimeError: the service says no"
    stopped(driver, runs[1])


@pytest.mark.slow
def test_no_process_leaves_before_process_0_has_written_the_samples(driver, tmp_path):
    """The other process also waits if process 0 then fails to write the samples."""
    assert driver.train(tmp_path / "run", {"train.steps": 2}).status == 0
    slow = tmp_path / "slow.py"
    slow.write_text(
        f"import time\nfrom diffusion.experiments.evaluation import plots\nreal = plots.trajectory\n"
        f"plots.trajectory = lambda *args, **more: (time.sleep({LONGER}), real(*args, **more))\n"
    )
    for name, status in (("samples", [0, 0]), ("blocked", [1, 1])):
        out = tmp_path / name
        if name == "blocked":
            (out / "samples.png").mkdir(parents=True)
        command = ["experiments.sample", f"--workdir={tmp_path / 'run'}", f"--out={out}", f"--extend={slow}"]
        results = [driver.wait(run, 100) for run in start_both(driver, *command)]
        assert [result.status for result in results] == status, results
        assert len(np.load(out / "samples.npz")["images"]) == 20
    assert (tmp_path / "samples" / "trajectory.png").exists()
    assert results[1].err == "error: process 0 of this run has failed; the output of process 0 has the reason\n"


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_read_error_of_one_process_at_restore_is_a_sentence_on_both(driver, tmp_path, victim):
    assert driver.train(tmp_path / "run", {"train.steps": 2}).status == 0
    broken = tmp_path / "broken.py"
    broken.write_text(f"""
import errno, os
from diffusion.training.checkpointing import validation
def unreadable(path):
    raise OSError(errno.EIO, "Input/output error", str(path))
if os.environ["DIFFUSION_PROCESS_INDEX"] == "{victim}":
    validation.check_files = unreadable
""")
    command = [*train_command(tmp_path / "run", {"train.steps": 4}), f"--extend={broken}"]
    began = time.monotonic()
    runs = [driver.start(*command, env=env) for env in two_processes(local.free_port())]
    results = [driver.wait(run, 100) for run in runs]
    assert time.monotonic() - began < BOUND / 2
    assert [result.status for result in results] == [1, 1], results
    for i, words in ((victim, "Input/output error"), (1 - victim, f"by process {victim} of this run")):
        assert results[i].err.startswith("error: ") and results[i].err.count("\n") == 1 and words in results[i].err
    assert checkpoints.steps(tmp_path / "run") == [2]
