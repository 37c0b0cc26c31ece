"""The runner with stand-ins for commands: isolation, retries, signals, resuming, and a sweep that is killed."""

import collections
import contextlib
import errno
import json
import os
import queue
import signal
import sys
import threading

import pytest
from rich.console import Console

from diffusion.experiments.sweeps import runner, sweep_folder
from diffusion.experiments.sweeps.devices import Slot
from diffusion.experiments.sweeps.sweep_folder import DONE, FAILED, QUEUED, RUNNING, STOPPED, Plan
from diffusion.experiments.sweeps.terminal import Display
from tests.reliability.driver import until

ANY = Slot({}, frozenset())


def plan(name, *scripts):
    return Plan(name, {"x": name}, [["sh", "-c", script, "sh", "{folder}"] for script in scripts])


def go(folder, plans, jobs=1, tries=1, signals=None, slots=None):
    """Runs the plans; returns (exit statuses, statuses, what was shown)."""
    left = {p.name: 0 if sweep_folder.status(folder / p.name, len(p.commands)).status == DONE else tries for p in plans}
    console = Console(file=open(os.devnull, "w"), record=True, width=200)
    ended = runner.run(
        folder,
        plans,
        slots or [ANY] * jobs,
        left,
        Display({QUEUED: len(plans)}, console),
        signals or queue.SimpleQueue(),
    )
    now = {p.name: sweep_folder.status(folder / p.name, len(p.commands)).status for p in plans}
    return ended, now, console.export_text()


@contextlib.contextmanager
def later(action):
    thread = threading.Thread(target=action)
    thread.start()
    yield
    thread.join()


@pytest.mark.extended
def test_a_failure_stops_no_other_run_and_its_reason_is_kept(tmp_path):
    plans = [
        plan("a", "echo fine"),
        plan("b", "echo starting; echo 'error: the disk is full' >&2; exit 3"),
        Plan("c", {}, [["no-such-program"]]),
        plan("d", "kill -9 $$"),
        plan("e", "true"),
    ]
    ended, now, shown = go(tmp_path, plans, jobs=2)
    assert now == {"a": "done", "b": "failed", "c": "failed", "d": "failed", "e": "done"}
    assert ended == {"a": 0, "b": 3, "c": 127, "d": 137, "e": 0}
    text = {name: sweep_folder.status(tmp_path / name, 1).reason for name in "bcd"}
    assert text["b"] == "error: the disk is full" and "no-such-program" in text["c"] and "signal 9" in text["d"]
    assert "error: the disk is full" in shown and "starting" in (tmp_path / "b" / "output.log").read_text()


@pytest.mark.extended
def test_of_a_traceback_the_exception_and_its_place_are_told(tmp_path):
    script = "import json\ndef f(): json.loads('no')\nf()"
    go(tmp_path, [Plan("a", {}, [["python", "-c", script]])])
    first, last = sweep_folder.status(tmp_path / "a", 1).reason.splitlines()
    assert first.startswith('File "') and "decoder.py" in first and last.startswith("json.decoder.JSONDecodeError: Exp")


def test_the_reason_is_in_the_output_of_the_command_that_failed(tmp_path):
    """The log begins with an earlier attempt, which failed for another reason."""
    log = tmp_path / "output.log"
    before = b"--- attempt 1: x\nerror: the disk is full\n--- attempt 2: x\n"
    log.write_bytes(before + b"the network is down\n")
    assert runner.reason(log, len(before), 1) == "the network is down"
    log.write_bytes(before)
    assert runner.reason(log, len(before), 1) == "exit status 1, without any output"


def test_a_command_holds_the_lock_of_its_run(tmp_path):
    """If the sweep is killed, its run stays locked until the command has ended."""
    ended, *_ = go(tmp_path, [plan("a", "ls -l /proc/self/fd | grep -q a/.sweep.lock")])
    assert ended == {"a": 0}


@pytest.mark.extended
def test_commands_run_in_turn_in_the_runs_folder_and_a_failure_ends_the_turn(tmp_path):
    plans = [plan("a", 'echo 1 >> "$1/made"', 'echo 2 >> "$1/made"'), plan("b", "exit 1", 'touch "$1/made"')]
    _, now, _ = go(tmp_path, plans)
    assert now == {"a": "done", "b": "failed"}
    assert (tmp_path / "a" / "made").read_text() == "1\n2\n" and not (tmp_path / "b" / "made").exists()
    events = sweep_folder.events(tmp_path / "a")
    assert [(e["status"], e["command"]) for e in events] == [("running", 0), ("done", 0), ("running", 1), ("done", 1)]


@pytest.mark.extended
def test_retries_are_by_choice_and_go_on_with_the_command_that_failed(tmp_path):
    flaky = plan("a", 'echo x >> "$1/first"', 'test -e "$1/tried" || { touch "$1/tried"; exit 1; }')
    _, now, _ = go(tmp_path, [flaky])
    assert now == {"a": "failed"}
    _, now, _ = go(tmp_path, [flaky])
    assert now == {"a": "done"} and (tmp_path / "a" / "first").read_text() == "x\n"
    _, now, shown = go(tmp_path / "two", [flaky, plan("b", "true")], tries=2)
    assert now == {"a": "done", "b": "done"} and "to be tried again" in shown
    assert sweep_folder.status(tmp_path / "two" / "a", 2).attempts == 2


@pytest.mark.extended
def test_a_mistake_in_the_config_is_not_tried_again(tmp_path):
    _, now, _ = go(tmp_path, [plan("a", 'echo x >> "$1/n"; exit 2')], tries=5)
    assert now == {"a": "failed"} and (tmp_path / "a" / "n").read_text() == "x\n"


@pytest.mark.extended
def test_what_is_done_is_not_done_again(tmp_path):
    plans = [plan(name, 'echo x >> "$1/n"') for name in "abc"]
    go(tmp_path, plans)
    ended, now, _ = go(tmp_path, plans)
    assert ended == {} and set(now.values()) == {"done"}
    assert all((tmp_path / name / "n").read_text() == "x\n" for name in "abc")


@pytest.mark.parametrize("output, seconds", [(1007.5, 7.5), (990.0, 0.0), (None, None)])
def test_an_attempt_that_was_killed_with_its_sweep_has_the_time_up_to_its_last_output(
    tmp_path, monkeypatch, output, seconds
):
    """In seconds since 1970: it began at 1000, and wrote its last line at `output`, perhaps by another clock."""
    monkeypatch.setattr(sweep_folder.time, "time", lambda: 1000.0)
    folder = tmp_path / "a"
    folder.mkdir()
    sweep_folder.log_event(folder, RUNNING, attempt=1, command=0)
    if output is not None:
        (folder / "output.log").write_text("step=1\n")
        os.utime(folder / "output.log", (output, output))
    go(tmp_path, [plan("a", "true")])
    _, *stopped, running, done = sweep_folder.events(folder)
    ends = [{name: event[name] for name in ("status", "attempt", "command", "seconds")} for event in stopped]
    expected = {"status": STOPPED, "attempt": 1, "command": 0, "seconds": seconds}
    assert ends == ([] if seconds is None else [expected])
    assert [(event["status"], event["attempt"]) for event in (running, done)] == [(RUNNING, 2), (DONE, 2)]


SAVES = 'trap "touch $1/saved; exit 143" TERM; touch "$1/up"; while :; do sleep 0.05; done'
RESUMES = f'if [ -e "$1/saved" ]; then touch "$1/resumed"; else {SAVES}; fi'


@pytest.mark.extended
def test_a_signal_lets_all_running_runs_save_and_the_next_time_goes_on(tmp_path):
    plans = [plan("a", RESUMES), plan("b", RESUMES), plan("c", "true")]
    signals = queue.SimpleQueue()

    def interrupt():
        until(lambda: all((tmp_path / name / "up").exists() for name in "ab"), 60)
        signals.put(signal.SIGINT)

    with later(interrupt):
        ended, now, _ = go(tmp_path, plans, jobs=2, signals=signals)
    assert now == {"a": "stopped", "b": "stopped", "c": "queued"} and ended == {"a": 143, "b": 143}
    _, now, _ = go(tmp_path, plans, jobs=2)
    assert set(now.values()) == {"done"} and all((tmp_path / name / "resumed").exists() for name in "ab")


@pytest.mark.extended
def test_second_and_third_signals_end_what_does_not_listen(tmp_path):
    signals = queue.SimpleQueue()
    deaf = plan("a", 'trap "touch $1/heard" TERM; touch "$1/up"; while :; do :; done')  # no child outlives it

    def interrupt():
        until(lambda: (tmp_path / "a" / "up").exists(), 60)
        signals.put(signal.SIGINT)
        until(lambda: (tmp_path / "a" / "heard").exists(), 60)  # else the second could end it before
        signals.put(signal.SIGINT)
        signals.put(signal.SIGINT)

    with later(interrupt):
        ended, _, shown = go(tmp_path, [deaf], signals=signals)
    # The shell's `touch`, killed with it, can hold the lock a moment longer.
    until(lambda: sweep_folder.status(tmp_path / "a", 1).status == "stopped", 60)
    assert ended == {"a": 137} and (tmp_path / "a" / "heard").exists()
    assert "saving and stopping" in shown and "killed" in shown


def test_a_run_that_someone_else_stopped_has_not_failed(tmp_path):
    _, now, _ = go(tmp_path, [plan("a", "exit 143"), plan("b", "true")], tries=3)
    assert now == {"a": "stopped", "b": "done"}


@pytest.mark.extended
def test_a_killed_sweeps_runs_go_on_and_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "RETRY_LOCK", 0.1)
    slow = plan("a", 'touch "$1/up"; while [ ! -e "$1/go" ]; do sleep 0.02; done; echo x >> "$1/n"')
    job = runner._hold(tmp_path, slow, ANY)
    runner._start(tmp_path, job)
    job.stack.close()  # what the kernel does when a sweep is killed: its descriptors go, the command's stay
    assert sweep_folder.status(tmp_path / "a", 1).status == "running"

    def finish():
        until(lambda: sweep_folder.status(tmp_path / "b", 1).status == "done", 60)  # the others go first
        assert not (tmp_path / "a" / "n").exists() and len(sweep_folder.events(tmp_path / "a")) == 1
        (tmp_path / "a" / "go").touch()

    with later(finish):
        _, now, shown = go(tmp_path, [slow, plan("b", "true")])
    job.popen.wait()
    assert now == {"a": "done", "b": "done"} and "waiting a" in shown
    assert (tmp_path / "a" / "n").read_text() == "x\nx\n"  # how the first one ended, nobody knew


def test_a_run_that_was_killed_with_its_sweep_is_stopped_not_running(tmp_path):
    sweep_folder.log_event((tmp_path / "a").parent, RUNNING, attempt=1, command=0)
    assert sweep_folder.status(tmp_path, 1).status == "stopped"
    with sweep_folder.hold(tmp_path / ".sweep.lock") as mine:
        assert mine is not None and sweep_folder.status(tmp_path, 1).status == "running"
        with sweep_folder.hold(tmp_path / ".sweep.lock") as second:
            assert second is None


def test_a_failure_while_a_sweep_is_held_is_not_taken_for_one_of_the_lock(tmp_path):
    with pytest.raises(OSError, match="the disk of the log has failed"), sweep_folder.hold(tmp_path / ".lock"):
        raise OSError(errno.EIO, "the disk of the log has failed")


def test_a_command_that_was_done_twice_is_one(tmp_path):
    for _ in range(2):  # as after a sweep that was killed
        sweep_folder.log_event(tmp_path, DONE, attempt=1, command=0, seconds=2.0)
    now = sweep_folder.logged_status(tmp_path, 2)
    assert (now.status, now.done, now.seconds) == ("running", 1, {0: 4.0})


def test_torn_events_are_left_out(tmp_path):
    sweep_folder.log_event(tmp_path, RUNNING, attempt=1, command=0)
    sweep_folder.log_event(tmp_path, DONE, attempt=1, command=0, seconds=1.0)
    whole = (tmp_path / "sweep.jsonl").read_bytes()
    for cut in range(len(whole)):
        (tmp_path / "sweep.jsonl").write_bytes(whole[:cut])
        assert sweep_folder.logged_status(tmp_path, 1).status in ("queued", "running", "done")
    (tmp_path / "sweep.jsonl").write_bytes(whole[:-20])
    sweep_folder.log_event(tmp_path, FAILED, attempt=2, command=0, reason="r")  # it follows on the torn line
    assert sweep_folder.logged_status(tmp_path, 1).status in ("running", "failed")


@pytest.mark.extended
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_jobs_have_devices_and_cores_of_their_own(tmp_path):
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    script = "import json, os; print(json.dumps([sorted(os.sched_getaffinity(0)), os.environ['CUDA_VISIBLE_DEVICES']]))"
    plans = [Plan(name, {}, [[sys.executable, "-c", script]]) for name in "ab"]
    go(tmp_path, plans, slots=[Slot({"CUDA_VISIBLE_DEVICES": "5"}, frozenset([core]))])
    for name in "ab":
        assert json.loads((tmp_path / name / "output.log").read_text().splitlines()[-1]) == [[core], "5"]
    assert os.sched_getaffinity(0) == before


@pytest.mark.extended
def test_no_more_than_the_slots_run_at_a_time(tmp_path):
    script = 'echo + >> "$1/../log"; sleep 0.6; echo - >> "$1/../log"'  # longer than between two begins
    go(tmp_path, [plan(f"r{i}", script) for i in range(5)], jobs=2)
    at_once, most = 0, 0
    for line in (tmp_path / "log").read_text().split():
        at_once += 1 if line == "+" else -1
        most = max(most, at_once)
    assert most == 2 and collections.Counter((tmp_path / "log").read_text().split()) == {"+": 5, "-": 5}
