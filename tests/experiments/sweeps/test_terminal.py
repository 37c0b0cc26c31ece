"""What a sweep shows: counts, time to go and reasons in a log; bars and the last line of each run on a terminal."""

import io

from rich.console import Console

from diffusion.experiments.sweeps import terminal
from diffusion.experiments.sweeps.devices import Slot
from diffusion.experiments.sweeps.sweep_folder import DONE, FAILED, QUEUED, STOPPED

SLOT = Slot({"CUDA_VISIBLE_DEVICES": "3"}, frozenset())


def test_a_log_has_a_line_for_each_event(tmp_path, monkeypatch):
    clock = iter([100.0, 100.0, 160.0, 160.0, 180.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(terminal.process_memory, "machine_memory", lambda: (5_250_000_000, 8_000_000_000))
    out = io.StringIO()
    with terminal.Display({DONE: 2, QUEUED: 4}, Console(file=out, width=200, soft_wrap=True)) as shown:
        shown.begin("x=1[red]", 2, tmp_path / "log", SLOT)
        shown.end("x=1[red]", DONE, 60.0, "")
        shown.end("x=2", FAILED, 20.0, "error: no\nreally", again=True)
        shown.end("x=2", FAILED, 20.0, "error: no", again=False)
    assert out.getvalue().splitlines() == [
        "begun   x=1[red], attempt 2 (GPU 3)",
        "done    x=1[red]  seconds=60 done=3 failed=0 total=6 runs_per_minute=1 eta_seconds=180 memory_gb=5.25",
        # two ends in 60 s, three to go
        "failed  x=2  seconds=20 done=3 failed=0 total=6 runs_per_minute=2 eta_seconds=90 memory_gb=5.25, "
        "to be tried again",
        "        error: no",
        "        really",
        # three in 80 s, two to go
        "failed  x=2  seconds=20 done=3 failed=1 total=6 runs_per_minute=2.25 eta_seconds=53.33 memory_gb=5.25",
        "        error: no",
    ]


def test_a_terminal_shows_what_each_run_says(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(terminal.process_memory, "machine_memory", lambda: (5_250_000_000, 8_000_000_000))
    (tmp_path / "log").write_text("step=100 loss=0.5\nstep=200 loss=0.25\n\n")
    out = io.StringIO()
    name = "sampler=dpmpp_2m_sde,steps=100"
    shown = terminal.Display({QUEUED: 3}, Console(file=out, width=80, force_terminal=True, highlight=False))
    shown.begin("x=1", 1, tmp_path / "log", SLOT)
    shown.begin("x=2", 1, tmp_path / "none", SLOT)
    clock[0] += 90
    shown.begin(name, 1, tmp_path / "log", SLOT)
    shown.end("x=1", DONE, 90.0, "")
    shown.console.print(shown._drawn())
    text = out.getvalue()
    assert "1 of 3 done, 0.667 runs/min, ETA 3m00s, memory 5.2 of 8.0 GB" in text
    assert name in text and "0s" in text and "step=200 loss=0.25" in text and "step=100" not in text


def test_a_stopped_run_does_not_count_in_the_pace(monkeypatch):
    """Else a second Ctrl-C would show a sweep that is faster than it is."""
    clock = iter([100.0, 160.0, 220.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(terminal.process_memory, "machine_memory", lambda: (5_250_000_000, 8_000_000_000))
    out = io.StringIO()
    shown = terminal.Display({QUEUED: 3}, Console(file=out, width=200))
    shown.end("a", STOPPED, 60.0, "")
    shown.end("b", DONE, 120.0, "")
    stopped, done = out.getvalue().splitlines()
    assert stopped == "stopped a  seconds=60 done=0 failed=0 total=3 memory_gb=5.25"
    assert done == "done    b  seconds=120 done=1 failed=0 total=3 runs_per_minute=0.5 eta_seconds=240 memory_gb=5.25"


def test_a_log_has_what_running_runs_say_from_time_to_time(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    log = tmp_path / "log"
    log.write_text("step=100 total=400 eta_seconds=30\n")
    out = io.StringIO()
    shown = terminal.Display({QUEUED: 2}, Console(file=out, width=80, soft_wrap=True))
    shown.begin("x=1[red]", 1, log, SLOT)
    shown.begin("x=2", 1, tmp_path / "none", SLOT)
    for clock[0] in (101.0, 105.0, 109.0, 111.0):  # it looks after 5 s at the earliest
        shown.show()
    log.write_text("step=200 total=400 eta_seconds=20\n")
    for clock[0] in (115.0, 117.0, 123.0):
        shown.show()
    assert out.getvalue().splitlines()[2:] == [
        "running x=1[red]  step=100 total=400 eta_seconds=30",
        "running x=1[red]  step=200 total=400 eta_seconds=20",
    ]
