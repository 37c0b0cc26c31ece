import io

import pytest
from rich.console import Console

from experiments import progress


def display(monkeypatch, start=0, speaks=True, terminal=False):
    """A display with a clock of our own, and what it wrote."""
    clock, out = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    console = Console(file=out, force_terminal=terminal, width=200, highlight=False)
    return progress.Display(100, start, 8, speaks, console), clock, out


def test_log_lines(monkeypatch):
    shown, clock, out = display(monkeypatch, start=20)
    with shown:
        clock[0] = 3.0
        assert shown.first_step() == 3.0
        clock[0] = 7.5
        assert shown.report(30, 0.25) == pytest.approx(9 / 4.5)
        clock[0] = 8.0
        shown.report(31, 0.2)  # too soon after the last line
        clock[0] = 30.0
        shown.report(100, 0.1)
    first, second, last = out.getvalue().splitlines()
    assert first == "first step after 3.0 s (compilation included)"
    assert second == "step 30/100  loss 0.2500  2 steps/s  16 images/s  ETA 35s"
    assert last.startswith("step 100/100  loss 0.1000")


def test_pauses_do_not_count(monkeypatch):
    shown, clock, _ = display(monkeypatch)
    shown.first_step()
    clock[0] = 10.0
    shown.pause(8.0)
    assert shown.report(5, 0.0) == pytest.approx(4 / 2.0)


def test_other_processes_are_silent(monkeypatch):
    shown, clock, out = display(monkeypatch, speaks=False)
    with shown:
        shown.first_step()
        clock[0] = 9.0
        assert shown.report(10, 0.5) == 1.0
        shown.say("words")
    assert out.getvalue() == ""


def test_terminal_shows_a_bar(monkeypatch):
    shown, clock, out = display(monkeypatch, terminal=True)
    with shown:
        clock[0] = 1.0
        shown.first_step()
        clock[0] = 2.0
        shown.report(50, 0.5)
        shown._bar.refresh()
    assert "step 50/100" in out.getvalue() and "49 steps/s" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0s"), (59.6, "1m00s"), (185, "3m05s"), (7620, "2h07m"), (356_400, "4d03h")],
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


def test_bar_of_a_single_job(monkeypatch):
    clock, out = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    with progress.bar("sampling", 10, "images", Console(file=out, width=200)) as advance:
        clock[0] = 1.0
        advance(2)  # too soon for a line
        clock[0] = 6.0
        advance(5)
        advance(10)
    assert out.getvalue().splitlines() == ["sampling 5/10 images  ETA 6s", "sampling 10/10 images  ETA 0s"]
