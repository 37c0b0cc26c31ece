"""The display of a run while it works: a bar on a terminal; in a log, a line of name=value now and then.

Only process 0 speaks.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from diffusion.training.runtime import process_memory

SECONDS_BETWEEN_LINES = (5.0, 60.0)  # seconds between two lines of a log: at first, and in a job of hours
GROWTH = 0.02  # least time between two lines, as a share of the time since the start
ESTIMATED_AFTER = 5.0  # seconds of steps after the first one, until the time of the run is estimated
FORGET = 0.7  # weight of the earlier rate in the moving average that is shown
STARTING = "starting (the first step compiles)"


class Output(Console):
    """The standard output, without which the work goes on: its reader may be gone, or the disk of the log full."""

    def __init__(self):
        """Writes to standard output, without colours for numbers and words."""
        super().__init__(file=sys.stdout, highlight=False, soft_wrap=True)

    def print(self, *objects, **options) -> None:
        """Prints, see `rich.console.Console.print`; what can no longer be printed is dropped."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            self._drop(error.strerror or str(error))

    def on_broken_pipe(self) -> None:
        """Replaces rich's way, which ends the process in the middle of its work."""
        self._drop("Broken pipe")

    def _drop(self, why: str) -> None:
        self.quiet = True
        said = f"WARNING: the standard output cannot be written ({why}). The work goes on without it."
        for stream, text in ((self.file, ""), (sys.stderr, said)):  # the pipe may be that of both
            try:
                print(text, file=stream, flush=True)
            except OSError:
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), stream.fileno())


class Display:
    """Shows step, rate, loss and time to go; use it in a `with` block."""

    def __init__(
        self,
        total: int,
        start: int,
        batch_size: int,
        speaks: bool = True,
        console: Console | None = None,
        begun: float | None = None,
        unit: str = "images",
    ):
        """Starts the clock.

        Args:
            total: the step at which the run ends.
            start: how many updates were made before.
            batch_size: how many examples a step has, for the rate.
            speaks: whether this process shows anything.
            console: the console of the output; standard output by default.
            begun: the value of time.perf_counter() when the run began, for the time to its first step; now by default.
            unit: the noun for the examples, in the plural.
        """
        self.total, self.batch_size, self.speaks, self.unit = total, batch_size, speaks, unit
        self.console = console or Output()
        self.rate = None  # steps a second
        self._reported = time.perf_counter()
        self._begun = self._reported if begun is None else begun
        self._first = self._step = start
        self._line = -math.inf
        self._paused = 0.0
        self._bar = None
        self._counted: tuple[float, int] | None = None  # since when, and which step, until the estimate is made
        if speaks and self.console.is_terminal:
            columns = _columns("{task.description}")
            self._bar = Progress(*columns, console=self.console, transient=True, expand=True)
            self._task = self._bar.add_task(STARTING, total=total, completed=start)

    def __enter__(self) -> "Display":
        if self._bar:
            self._bar.start()
        else:
            self.say(STARTING)
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        if self.speaks:
            self.console.print(text, markup=False)

    def first_step(self) -> float:
        """Notes that the first step is done; the rate counts from here. Returns the seconds that it took."""
        seconds = time.perf_counter() - self._begun
        self.say(f"first step after {seconds:.1f} s (compilation included)")
        self._reported = time.perf_counter()
        self._step = self._first + 1
        self._counted = (self._reported, self._step)
        return seconds

    def step_done(self, step: int) -> None:
        """Says once, as soon as some seconds of steps can tell, how long the rest will take.

        Args:
            step: the number of updates whose results have come.
        """
        if self._counted is None:
            return
        began, first = self._counted
        seconds = time.perf_counter() - began
        if step <= first or seconds < ESTIMATED_AFTER:
            return
        self._counted = None
        rate = (step - first) / seconds
        left = self.total - step
        if left > 0:
            self.say(f"about {duration(left / rate)} for the {left:,} steps to come, at {rate:.3g} steps a second")

    def pause(self, seconds: float) -> None:
        """Leaves the time that something else took (sampling, saving) out of the rate."""
        self._paused += seconds
        if self._counted is not None:
            self._counted = (self._counted[0] + seconds, self._counted[1])

    def report(self, step: int, loss: float | None, skipped: int = 0) -> float | None:
        """Shows where the run is; call it with every line of metrics.

        Args:
            step: the number of updates made.
            loss: the mean of the last interval; None if the model rested in it, see config.second_player.updates.
            skipped: the number of damaged records so far.

        Returns:
            Steps a second since the last report, or None if it cannot tell.
        """
        now = time.perf_counter()
        seconds = now - self._reported - self._paused
        steps = step - self._step
        rate = steps / seconds if steps > 0 and seconds > 0 else None
        if rate:
            self.rate = rate if self.rate is None else FORGET * self.rate + (1 - FORGET) * rate
            self._reported, self._step, self._paused = now, step, 0.0
        if self.speaks:
            self._show(step, loss, skipped, now)
        return rate

    def _show(self, step: int, loss: float | None, skipped: int, now: float) -> None:
        rate = self.rate
        left = (self.total - step) / self.rate if self.rate else None
        if self._bar:
            text = f"step {step}/{self.total}" + ("" if loss is None else f"  loss {loss:.4f}")
            text += f"  {skipped} records skipped" if skipped else ""
            if rate and left is not None:
                # in this order, since a narrow terminal cuts the end off
                text += f"  ETA {duration(left)}  {rate:.3g} steps/s  {rate * self.batch_size:.4g} {self.unit}/s"
            self._bar.update(self._task, completed=step, description=f"{text}  {held()}")
        elif due(now - self._begun, now - self._line) or step == self.total:
            self._line = now
            values = {"step": step, "total": self.total, "loss": loss, "skipped": skipped or None}
            rates = {"steps_per_second": rate, f"{self.unit}_per_second": rate and rate * self.batch_size}
            self.say(line(values | rates | {"eta_seconds": left}))


@contextlib.contextmanager
def bar(
    description: str, total: int, unit: str, console: Console | None = None, speaks: bool = True
) -> Iterator[Callable[[int], None]]:
    """Shows the progress of a single job: a bar on a terminal, now and then a line in a log.

    Args:
        description: a noun for the job, e.g. "sampling".
        total: the amount of work.
        unit: the unit of the total, e.g. "images".
        console: the console of the output; standard output by default.
        speaks: whether this process shows anything.

    Yields:
        advance(done): reports how much is done.
    """
    if not speaks:
        yield lambda done: None
        return
    console = console or Output()
    begun = time.perf_counter()
    rate = lambda done: done / max(time.perf_counter() - begun, 1e-9)
    left = lambda done: (total - done) / rate(done) if done else None
    if console.is_terminal:
        text = f"{{task.description}} {{task.completed}}/{{task.total}} {unit}{{task.fields[rate]}}"
        with Progress(*_columns(text), console=console, expand=True) as shown:
            task = shown.add_task(description, total=total, rate="")

            def show(done: int) -> None:
                seconds = left(done)
                eta = f"  ETA {duration(seconds)}" if seconds else ""
                shown.update(task, completed=done, rate=f"  {rate(done):.3g} {unit}/s{eta}  {held()}")

            yield show
        return
    last = begun
    console.print(f"{description} {line({'done': 0, 'total': total, 'unit': unit})}", markup=False)

    def advance(done: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if due(now - begun, now - last) or done >= total:
            last = now
            values = {"done": done, "total": total, "unit": unit, "per_second": rate(done), "eta_seconds": left(done)}
            console.print(f"{description} {line(values)}", markup=False)

    yield advance


def _columns(text: str) -> tuple[ProgressColumn, ...]:
    """The text, whole if it fits, the bar on the rest of the line, and the time since the start."""
    words = TextColumn(text, table_column=Column(no_wrap=True, overflow="ellipsis"))
    return SpinnerColumn(), words, BarColumn(bar_width=None, table_column=Column(ratio=1)), TimeElapsedColumn()


def due(elapsed: float, since: float) -> bool:
    """Whether a log gets another line, `elapsed` seconds after the start and `since` seconds after the last line."""
    shortest, longest = SECONDS_BETWEEN_LINES
    return since >= min(max(shortest, GROWTH * elapsed), longest)


def line(values: Mapping[str, float | str | None], used: int | None = None) -> str:
    """A line of a log for people and programs: "step=30 total=100 loss=0.25 memory_gb=1.2"; None is left out.

    Args:
        values: numbers and words by name.
        used: the bytes of memory in use; this process's by default.
    """
    bytes_used = process_memory.used()[0] if used is None else used
    known = {name: x for name, x in values.items() if x is not None} | {"memory_gb": bytes_used / 1e9}
    return " ".join(f"{name}={x:.4g}" if isinstance(x, float) else f"{name}={x}" for name, x in known.items())


def held(memory: tuple[int, int | None] | None = None) -> str:
    """The memory in use as people say it, with the available memory if known: "1.2 GB", "70.1 of 139.8 GB".

    Args:
        memory: (bytes in use, available bytes or None); this process's by default.
    """
    used, limit = memory or process_memory.used()
    return f"{used / 1e9:.1f}{f' of {limit / 1e9:.1f}' if limit else ''} GB"


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
