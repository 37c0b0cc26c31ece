"""What a sweep shows: counts, time to go and reasons in a log; bars and the last line of each run on a terminal."""

import io

from rich.console import Console

from experiments.sweeps import display, state
from experiments.sweeps.devices import Slot

SLOT = Slot({"CUDA_VISIBLE_DEVICES": "3"}, frozenset())


def test_a_log_has_a_line_for_each_event(tmp_path, monkeypatch):
    clock = iter([100.0, 100.0, 160.0, 160.0, 180.0, 180.0, 180.0])
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    with display.Display({state.DONE: 2, state.QUEUED: 4}, 1, Console(file=out, width=200, soft_wrap=True)) as shown:
        shown.begin("x=1[red]", 2, tmp_path / "log", SLOT)
        shown.end("x=1[red]", state.DONE, 60.0, "")
        shown.end("x=2", state.FAILED, 20.0, "error: no\nreally", again=True)
        shown.end("x=2", state.FAILED, 20.0, "error: no", again=False)
    assert out.getvalue().splitlines() == [
        "begun   x=1[red], attempt 2 (GPU 3)",
        "done    x=1[red]  1m00s  (3 of 6 done, ETA 3m00s)",  # one in 60 s, three to go
        "failed  x=2  20s  (3 of 6 done, ETA 1m30s), to be tried again",  # two ends in 60 s
        "        error: no",
        "        really",
        "failed  x=2  20s  (3 of 6 done, 1 failed, ETA 53s)",  # three in 80 s, two to go
        "        error: no",
    ]


def test_a_terminal_shows_what_each_run_says(tmp_path):
    (tmp_path / "log").write_text("step=100 loss=0.5\nstep=200 loss=0.25\n\n")
    out = io.StringIO()
    shown = display.Display({state.QUEUED: 2}, 1, Console(file=out, width=100, force_terminal=True))
    shown.begin("x=1", 1, tmp_path / "log", SLOT)
    shown.begin("x=2", 1, tmp_path / "none", SLOT)
    shown.console.print(shown._drawn())
    told = out.getvalue()
    assert "0 of 2 done" in told and "step=200 loss=0.25" in told and "step=100" not in told
