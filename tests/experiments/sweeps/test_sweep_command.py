"""The command itself, with stand-ins and with tiny trainings: signals, a sweep that is killed, tasks, and the table."""

import json
import os
import signal
import subprocess
import sys

import pytest

from diffusion.experiments.sweeps import devices
from tests.reliability.driver import until

pytestmark = pytest.mark.slow
STUBS = """
from diffusion.experiments.sweeps.combinators import each
from diffusion.experiments.sweeps.definition import Sweep
SCRIPT = ('test -e "$1/saved" && exit 0; trap "touch $1/saved; exit 143" TERM INT; touch "$1/up"; '
          'while :; do sleep 0.05; done')
def get_sweep(arg=""):
    return Sweep(each("x", range(3)), [("sh", "-c", SCRIPT if not arg else arg, "{x}", "{folder}")])
"""
REAL = """
from diffusion.experiments.sweeps.combinators import each, product
from diffusion.experiments.sweeps.commands import evaluate, sample, train
from diffusion.experiments.sweeps.definition import Sweep
def get_sweep(arg=""):
    densities = [{"name": name, "strata": 32} for name in ("uniform_density", "logit_normal")]
    runs = product(each("objective.density", densities), each("seed", (0, 1)),
                   [{"train.steps": int(arg or 40)}])
    return Sweep(runs, [train("configs/digits.py:tiny"), sample(), evaluate()])
"""

SYMBOLS = """
from diffusion.experiments.sweeps.combinators import each, product
from diffusion.experiments.sweeps.commands import evaluate, sample, train
from diffusion.experiments.sweeps.definition import Sweep
def get_sweep(arg=""):
    runs = product(each("sample.sampler", [{"name": "ancestral"}, {"name": "theta_trapezoidal"}]),
                   [{"train.steps": 4, "evaluate.loss.every": 2, "sample.steps": 4}])
    return Sweep(runs, [train("symbols/prose:tiny"), sample(), evaluate()])
"""


def started(*argv, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.sweep", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | more,
    )


def finished(*argv, **more):
    process = started(*argv, **more)
    return process, process.communicate(timeout=900)[0]


@pytest.fixture
def stubs(tmp_path):
    (tmp_path / "stubs.py").write_text(STUBS)
    return f"--sweep={tmp_path / 'stubs.py'}"


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_lets_the_runs_save_and_the_same_command_goes_on(tmp_path, stubs, number, status):
    there = tmp_path / "there"
    argv = [stubs, f"--workdir={tmp_path / 'there'}", "--jobs=2"]
    process = started(*argv)
    until(lambda: all((there / f"x={i}" / "up").exists() for i in (0, 1)))
    process.send_signal(number)
    message = process.communicate(timeout=60)[0]
    assert process.returncode == status and "2 stopped" in message and "To go on:" in message
    assert all((there / f"x={i}" / "saved").exists() for i in (0, 1)) and not (there / "x=2").exists()
    (there / "x=2").mkdir()
    (there / "x=2" / "saved").touch()
    process, message = finished(*argv)
    assert process.returncode == 0 and "3 done" in message


def test_a_sweep_that_is_killed_loses_nothing(tmp_path, stubs):
    there = tmp_path / "there"
    argv = [stubs, f"--workdir={there}"]
    process = started(*argv)
    until((there / "x=0" / "up").exists)
    process.kill()
    process.wait()
    second = started(*argv)
    until((there / "x=1" / "up").exists)  # x=0 is held by what the first sweep had started
    third, message = finished(*argv)
    assert third.returncode == 1 and "is in use" in message
    (there / "x=0" / "saved").touch()
    orphan = int(subprocess.run(["pgrep", "-f", f"{there}/x=0"], capture_output=True, text=True).stdout.split()[0])
    os.kill(orphan, signal.SIGTERM)
    for i in (1, 2):
        until((there / f"x={i}" / "up").exists)
        for pid in subprocess.run(["pgrep", "-f", f"{there}/x={i}"], capture_output=True, text=True).stdout.split():
            os.kill(int(pid), signal.SIGTERM)
    message = second.communicate(timeout=120)[0]
    assert second.returncode == 1 and "waiting x=0" in message and "1 done, 2 stopped" in message
    process, message = finished(*argv)
    assert process.returncode == 0 and "3 done" in message


def test_a_task_runs_one_run_and_has_its_exit_status(tmp_path, stubs):
    there = tmp_path / "there"
    script = 'test "$0" = 1 || exit 5'
    argv = [f"{stubs}:{script}", f"--workdir={there}"]
    assert finished(*argv, "--run=1")[0].returncode == 0
    assert finished(*argv, "--run=x=2")[0].returncode == 5 and not (there / "x=0").exists()
    process, message = finished(*argv)
    assert process.returncode == 1 and "1 done, 2 failed" in message and "x=2" not in message  # it had failed
    process, message = finished(*argv, "--retry=1")
    assert process.returncode == 1 and message.count("attempt 2") == 2
    assert finished(*argv, "--run=3")[0].returncode == 2


def test_added_runs_are_run_alone(tmp_path, stubs):
    there = tmp_path / "there"
    script = 'echo "$0" >> "$1/runs"'
    argv = [f"{stubs}:{script}", f"--workdir={there}"]
    process, message = finished(*argv)
    assert process.returncode == 0 and "3 done" in message and "New runs" not in message
    (tmp_path / "stubs.py").write_text(STUBS.replace("range(3)", "(5, 0, 1, 2, 4)"))
    process, message = finished(*argv, "--run=1")  # of a task that was waiting
    assert process.returncode == 0 and "New runs: 2. The other runs" in message
    process, message = finished(*argv)
    assert process.returncode == 0 and "5 done" in message and "New runs" not in message
    assert [(there / f"x={i}" / "runs").read_text() for i in (0, 1, 2, 4, 5)] == ["0\n", "1\n", "2\n", "4\n", "5\n"]


def test_a_sweep_of_trainings_ends_in_a_table_and_resumes_bit_for_bit(tmp_path):
    (tmp_path / "real.py").write_text(REAL)
    there = tmp_path / "there"
    sweep = f"--sweep={tmp_path / 'real.py'}"
    process, message = finished(sweep, f"--workdir={there}", "--dry-run")
    assert process.returncode == 0 and "4 runs" in message and not there.exists(), message
    names = [f"density={name}-strata-32,seed={seed}" for name in ("uniform_density", "logit_normal") for seed in (0, 1)]

    process = started(sweep, f"--workdir={there}", "--jobs=2")
    until((there / names[0] / "checkpoints" / "20").exists)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=300)[0]
    assert process.returncode == 130, message
    process, message = finished(sweep, f"--workdir={there}", "--jobs=2")
    assert process.returncode == 0 and "4 done" in message, message
    alone = tmp_path / "alone"
    words = json.loads((there / "sweep.json").read_text())["runs"][0]["commands"][0]
    command = [sys.executable, "-m", *(word.replace("{folder}", str(alone)) for word in words)]
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, devices.slots(2, [], sorted(cores))[0].cores)  # XLA sums in another order on more of them
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # undisturbed
    finally:
        os.sched_setaffinity(0, cores)
    for file in ("config.json", "metrics.jsonl"):
        assert (alone / file).read_bytes() == (there / names[0] / file).read_bytes()

    process, message = finished(f"--workdir={there}", "--table", "--figures=fd_pixels,loss,nfe")
    assert process.returncode == 0 and "2 of 2" in message
    assert json.loads((there / names[3] / "report.json").read_text())["figures"]["frechet"]["pixels"]["distance"] > 0
    assert len((there / "table.md").read_text().splitlines()) == 6
    process, message = finished(f"--sweep={tmp_path / 'real.py'}:50", f"--workdir={there}")
    assert process.returncode == 2 and "--config.train.steps=40 -> --config.train.steps=50" in message


def test_samplers_of_symbols_are_compared_in_a_table(tmp_path):
    (tmp_path / "symbols.py").write_text(SYMBOLS)
    there = tmp_path / "there"
    process, message = finished(f"--sweep={tmp_path / 'symbols.py'}", f"--workdir={there}")
    assert process.returncode == 0 and "2 done" in message, message
    process, message = finished(f"--workdir={there}", "--table", "--figures=bigram_divergence,loss,nfe")
    assert process.returncode == 0, message
    rows = [line for line in (there / "table.md").read_text().splitlines() if line.startswith("|")][2:]
    evaluations = {row.split("|")[1].strip(): row.split("|")[-2].strip() for row in rows}
    assert evaluations == {"ancestral": "4", "theta_trapezoidal": "8"}
