"""What a run shows while it works: a bar on a terminal, plain lines in a log; only process 0 speaks."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5.0  # in a log, where every line stays
FORGET = 0.7  # of the rate at each report: the rate shown is a moving average


class Display:
    """Shows step, rate, loss and time to go; use it in a ``with`` block."""

    def __init__(self, total: int, start: int, batch_size: int, speaks: bool = True, console: Console | None = None):
        """Starts the clock.

        Args:
          total: the step at which the run ends.
          start: updates made before.
          batch_size: images in a step, for the rate.
          speaks: whether this process shows anything.
          console: where to; standard output by default.
        """
        self.total, self.batch_size, self.speaks = total, batch_size, speaks
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.rate = None  # steps a second
        self._begun = self._reported = time.perf_counter()
        self._first = self._step = start
        self._line = -SECONDS_BETWEEN_LINES
        self._paused = 0.0
        self._bar = None
        if speaks and self.console.is_terminal:
            columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("starting (the first step compiles)", total=total, completed=start)

    def __enter__(self) -> "Display":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        if self.speaks:
            self.console.print(text, markup=False)

    def first_step(self) -> float:
        """Tells that the first step is done; the rate counts from here. Returns the seconds that it took."""
        seconds = time.perf_counter() - self._begun
        self.say(f"first step after {seconds:.1f} s (compilation included)")
        self._reported, self._step = time.perf_counter(), self._first + 1
        return seconds

    def pause(self, seconds: float) -> None:
        """Leaves the time that something else took (sampling, saving) out of the rate."""
        self._paused += seconds

    def report(self, step: int, loss: float, skipped: int = 0) -> float | None:
        """Shows where the run is; call it with every line of metrics.

        Args:
          step: updates made.
          loss: mean of the last interval.
          skipped: damaged records so far.

        Returns:
          Steps a second since the last report, or None if it cannot tell.
        """
        now = time.perf_counter()
        seconds, steps = now - self._reported - self._paused, step - self._step
        rate = steps / seconds if steps > 0 and seconds > 0 else None
        if rate:
            self.rate = rate if self.rate is None else FORGET * self.rate + (1 - FORGET) * rate
            self._reported, self._step, self._paused = now, step, 0.0
        if self.speaks:
            self._show(step, loss, skipped, now)
        return rate

    def _show(self, step: int, loss: float, skipped: int, now: float) -> None:
        text = f"step {step}/{self.total}  loss {loss:.4f}" + (f"  {skipped} records skipped" if skipped else "")
        if self.rate:
            left = (self.total - step) / self.rate
            text += f"  {self.rate:.3g} steps/s  {self.rate * self.batch_size:.4g} images/s  ETA {duration(left)}"
        if self._bar:
            self._bar.update(self._task, completed=step, description=text)
        elif now - self._line >= SECONDS_BETWEEN_LINES or step == self.total:
            self._line = now
            self.say(text)


@contextlib.contextmanager
def bar(description: str, total: int, unit: str, console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """Shows the progress of a single job: a bar on a terminal, a line every few seconds in a log.

    Args:
      description: what is done, e.g. "sampling".
      total: how much of it there is.
      unit: of the total, e.g. "images".
      console: where to; standard output by default.

    Yields:
      advance(done): tells how much is done.
    """
    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    if console.is_terminal:
        text = TextColumn(f"{{task.description}} {{task.completed}}/{{task.total}} {unit}")
        with Progress(SpinnerColumn(), BarColumn(bar_width=24), text, TimeRemainingColumn(), console=console) as shown:
            task = shown.add_task(description, total=total)
            yield lambda done: shown.update(task, completed=done)
        return
    begun = line = time.perf_counter()

    def advance(done: int) -> None:
        nonlocal line
        now = time.perf_counter()
        if now - line >= SECONDS_BETWEEN_LINES or done >= total:
            line = now
            left = duration((now - begun) * (total - done) / max(done, 1))
            console.print(f"{description} {done}/{total} {unit}  ETA {left}", markup=False)

    yield advance


def duration(seconds: float) -> str:
    """Returns a time as people say it: "8s", "3m05s", "2h07m", "4d03h"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
