"""Signals that stop a run, by Ctrl-C, a scheduler or a preempted machine: once, twice, and to one of two processes."""

import json
import os
import pathlib
import pty
import re
import signal
import sys
import time

import pytest

from diffusion.experiments import train
from diffusion.launch import local
from diffusion.training.checkpointing import checkpoints
from tests.reliability.driver import ROOT, train_command, two_processes, until

GRACE = 30.0  # seconds until a scheduler kills: Kubernetes' default, and about the time of TPUs and spot machines
ENDLESS = {"train.steps": 10**6, "checkpoint.every": 10**6}


def said(started, words):
    """A function that says whether a started command's standard output matches a regular expression."""
    return lambda: re.search(words, pathlib.Path(f"{started[1]}.out").read_text())


def caught(process, number):
    """Whether a process handles a signal itself."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1)


def lines(workdir):
    file = workdir / "metrics.jsonl"  # missing if a run stops before its first line
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(driver, tmp_path, number):
    """SLURM's warning (SIGUSR1) and a lost connection (SIGHUP) have the effect of SIGTERM."""
    run = driver.start(*train_command(tmp_path, ENDLESS))
    until(said(run, "first step"))
    os.kill(run[0], number)
    began = time.monotonic()
    result = driver.wait(run)
    assert result.status == 143 and re.fullmatch(r"diffusion train: programs: .*\n", result.err), result
    assert time.monotonic() - began < GRACE
    step = int(re.search(r"stopped at step (\d+) of", result.out)[1])
    assert checkpoints.steps(tmp_path) == [step]
    assert f"diffusion train --config=configs/digits.py --workdir={tmp_path}" in result.out
    again = driver.train(tmp_path, {"train.steps": step + 1})
    assert again.status == 0 and f"from step {step} of {step + 1}" in again.out


@pytest.mark.slow
def test_a_lost_terminal_saves(tmp_path):
    """When a connection breaks, nothing can be written to the terminal any more, which is not an error."""
    process, terminal = pty.fork()
    if not process:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup inherit that it is ignored
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", *train_command(tmp_path, ENDLESS)])
    until(lambda: (tmp_path / "metrics.jsonl").exists() or not os.read(terminal, 1000))
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 143
    assert len(checkpoints.steps(tmp_path)) == 1


@pytest.mark.extended
@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_second_signal_ends_at_once(driver, tmp_path, number):
    """The second signal comes while a save hangs; the earlier checkpoint stays."""
    hang = {"point": ["mkdir checkpoints/#.tmp", "before"], "number": 2, "seconds": 600, "does": "wait"}
    run = driver.start(*train_command(tmp_path), kill=hang)
    until(lambda: pathlib.Path(f"{run[1]}.points").read_text())
    os.kill(run[0], number)
    until(lambda: not caught(run[0], number))  # the first signal is handled; two that come sooner may merge into one
    began = time.monotonic()
    os.kill(run[0], number)
    result = driver.wait(run)
    assert result.status == -number and time.monotonic() - began < 300, result
    assert checkpoints.steps(tmp_path) == [2]


@pytest.mark.slow
@pytest.mark.parametrize("index, number", [(0, signal.SIGTERM), (1, signal.SIGTERM), (1, signal.SIGUSR1)])
def test_a_signal_to_one_of_two_processes_stops_both_at_one_step(driver, tmp_path, index, number):
    """A scheduler signals only the machine that it takes away, and JAX passes the notice to the others."""
    environments = two_processes(local.free_port())
    runs = [driver.start(*train_command(tmp_path, ENDLESS), env=env) for env in environments]
    until(said(runs[0], "first step"))
    os.kill(runs[index][0], number)
    began = time.monotonic()
    results = [driver.wait(run) for run in runs]
    assert [result.status for result in results] == [143, 143], results
    assert time.monotonic() - began < GRACE
    step = int(re.search(r"stopped at step (\d+) of", results[0].out)[1])
    assert checkpoints.steps(tmp_path) == [step] and max(lines(tmp_path), default=0) <= step
    alone = driver.train(tmp_path, {"train.steps": step + 1})
    assert alone.status == 0 and f"from step {step} of {step + 1}" in alone.out


def test_the_statuses_are_documented():
    documented = train.__doc__.partition("Exit status:")[2]
    for status in (0, 1, 2, 130, 143):
        assert re.search(rf"\b{status}\b", documented), status
