import io
import os
import sys

import numpy as np
import pytest
from rich.console import Console

from diffusion.training.runtime import process_memory, progress


def display(monkeypatch, start=0, speaks=True, terminal=False, width=200):
    """A display with a clock of our own, and what it wrote."""
    clock = [0.0]
    out = io.StringIO()
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(progress.process_memory, "used", lambda: (1_234_000_000, 4_000_000_000))
    console = Console(file=out, force_terminal=terminal, width=width, highlight=False)
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
    starting, first, second, last = out.getvalue().splitlines()
    assert starting == "starting (the first step compiles)"  # minutes of silence would look like a run that hangs
    assert first == "first step after 3.0 s (compilation included)"
    assert second == (
        "step=30 total=100 loss=0.25 steps_per_second=2 images_per_second=16 eta_seconds=35 memory_gb=1.234"
    )
    assert last.startswith("step=100 total=100 loss=0.1 ")


def test_first_step_counts_from_where_the_run_began(monkeypatch):
    _, clock, out = display(monkeypatch)
    clock[0] = 5.0
    shown = progress.Display(100, 0, 8, console=Console(file=out), begun=2.0)
    assert shown.first_step() == 3.0


def test_lines_grow_rare_in_a_long_run():
    """One in five seconds at first, one in a minute after an hour: some 100 in the first hour, 1,440 a day."""
    assert [progress.due(10, since) for since in (4, 5)] == [False, True]
    assert [progress.due(1000, since) for since in (19, 20)] == [False, True]
    assert [progress.due(1e6, since) for since in (59, 60)] == [False, True]


def test_the_first_steps_say_how_long_the_run_will_take(monkeypatch):
    shown, clock, out = display(monkeypatch)
    clock[0] = 1.0
    shown.first_step()
    clock[0] = 5.5
    shown.step_done(9)  # too soon
    shown.pause(4.0)
    shown.report(9, 0.0)
    clock[0] = 10.0
    shown.step_done(13)  # 12 steps in 9 seconds, 4 of which were something else's: 5 are enough
    shown.step_done(20)
    said = [line for line in out.getvalue().splitlines() if line.startswith("about")]
    assert said == ["about 36s for the 87 steps to come, at 2.4 steps a second"]


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
        (task,) = shown._bar.tasks
        assert (task.completed, task.total) == (50, 100)
    assert "step 50/100" in out.getvalue() and "49 steps/s" in out.getvalue() and "1.2 of 4.0 GB" in out.getvalue()


def test_a_narrow_terminal_shows_loss_and_time_to_go(monkeypatch):
    shown, clock, out = display(monkeypatch, terminal=True, width=64)
    with shown:
        clock[0] = 1.0
        shown.first_step()
        clock[0] = 2.0
        shown.report(50, 0.5)
        shown._bar.refresh()
    assert "step 50/100  loss 0.5000  ETA 1s  49 steps/s" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (59.6, "1m00s"), (185, "3m05s"), (7620, "2h07m"), (356_400, "4d03h")]
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


def test_bar_of_a_single_job(monkeypatch):
    clock = [0.0]
    out = io.StringIO()
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(progress.process_memory, "used", lambda: (5e8, None))
    with progress.bar("sampling", 10, "images", Console(file=out, width=200)) as advance:
        clock[0] = 1.0
        advance(2)  # too soon for a line
        clock[0] = 6.0
        advance(5)
        advance(10)
    assert out.getvalue().splitlines() == [
        "sampling done=0 total=10 unit=images memory_gb=0.5",  # at once: nobody waits for a sign of life
        "sampling done=5 total=10 unit=images per_second=0.8333 eta_seconds=6 memory_gb=0.5",
        "sampling done=10 total=10 unit=images per_second=1.667 eta_seconds=0 memory_gb=0.5",
    ]


def test_bar_of_a_single_job_on_a_terminal(monkeypatch):
    """Rate, time to go and memory after the first report, in a line that a narrow terminal holds."""
    clock = [0.0]
    out = io.StringIO()
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(progress.process_memory, "used", lambda: (5e8, None))
    with progress.bar("sampling", 10, "images", Console(file=out, width=80, force_terminal=True)) as advance:
        clock[0] = 90.0
        advance(4)
    assert "sampling 4/10 images  0.0444 images/s  ETA 2m15s  0.5 GB" in out.getvalue()


def test_other_processes_show_no_bar():
    out = io.StringIO()
    with progress.bar("sampling", 10, "images", Console(file=out), speaks=False) as advance:
        advance(10)
    assert out.getvalue() == ""


@pytest.mark.extended
def test_memory_in_use_grows_with_what_is_held():
    before, _ = process_memory.used()
    held = np.ones(50_000_000)
    assert 300e6 < process_memory.used()[0] - before < 600e6, held.nbytes


def test_lines_are_plain_in_a_terminal_too(monkeypatch):
    """Rich would colour the numbers of a line."""
    out = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(progress.sys, "stdout", out)
    progress.Display(10, 0, 8).say("step=12 loss=0.5 'runs/a'")
    assert out.getvalue() == "step=12 loss=0.5 'runs/a'\n"


def test_the_unit_of_the_rate_is_what_the_examples_are_called():
    out = io.StringIO()
    display = progress.Display(10, 0, 8, console=Console(file=out, width=200), unit="vectors")
    with display:
        display.first_step()
        display.report(10, 0.5)
    assert "vectors_per_second=" in out.getvalue() and "images" not in out.getvalue()


@pytest.mark.parametrize("step, said", [(99, ["about 0s for the 1 steps to come, at 14 steps a second"]), (100, [])])
def test_a_run_that_is_done_has_no_steps_to_come(monkeypatch, step, said):
    shown, clock, out = display(monkeypatch)
    shown.first_step()
    clock[0] = (step - 1) / 14
    shown.step_done(step)
    assert [line for line in out.getvalue().splitlines() if line.startswith("about")] == said


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("gone, why", [
    (closed_pipe, "Broken pipe"), (lambda: open("/dev/full", "w"), "No space left on device"),
])  # fmt: skip
def test_a_run_goes_on_where_its_output_is_gone(monkeypatch, capsys, gone, why):
    """As in `diffusion train | tee log`, where tee is killed or the disk of the log is full."""
    with gone() as output:
        monkeypatch.setattr(sys, "stdout", output)
        with progress.Display(100, 0, 8) as shown, progress.bar("sampling", 2, "images") as advance:
            shown.say("training")
            assert shown.report(100, 0.25) > 0
            advance(2)
        output.flush()  # as Python does at its end
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1 and f"the standard output cannot be written ({why})" in said
