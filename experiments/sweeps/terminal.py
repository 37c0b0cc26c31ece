"""The display of a sweep: on a terminal a bar and the last line of each run, in a log a line for each event.

From time to time, a log also shows the last lines of the runs.
"""

import pathlib
import signal
import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from diffusion.experiments.sweeps.devices import Slot
from diffusion.experiments.sweeps.sweep_folder import DONE, FAILED, STOPPED
from diffusion.training.runtime import process_memory
from diffusion.training.runtime.progress import Output, due, duration, held, line

REFRESH = 0.5  # seconds between two redraws


class Display:
    """Shows the progress of a sweep; use it in a `with` block."""

    def __init__(self, counts: dict[str, int], console: Console | None = None):
        """Starts the clock.

        Args:
            counts: {status: number of the sweep's runs that have it}.
            console: the console to write to; None for standard output.
        """
        self.console = console or Output()
        self.total = sum(counts.values())
        self.done = counts.get(DONE, 0)
        self.failed = counts.get(FAILED, 0)
        self.running: dict[str, tuple[float, pathlib.Path]] = {}  # {name of a run: (the time of its start, its log)}
        self._begun = time.monotonic()
        self._finished = 0
        self._live = None
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._shown = 0.0 if self._live else self._begun
        self._repeated: dict[str, str] = {}  # {name of a run: its last line that was printed}

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Prints a line, above the bars if any are shown."""
        self.console.print(text, markup=False)

    def begin(self, name: str, attempt: int, log: pathlib.Path, slot: Slot) -> None:
        """Shows that a run was begun."""
        gpus = slot.variables.get("CUDA_VISIBLE_DEVICES")
        cores = ",".join(map(str, sorted(slot.cores)))
        devices = f" (GPU {gpus})" if gpus else f" (cores {cores})" if cores else ""
        self.running[name] = (time.monotonic(), log)
        if not self._live:
            self.say(f"begun   {name}{f', attempt {attempt}' if attempt > 1 else ''}{devices}")

    def end(self, name: str, status: str, seconds: float, reason: str, again: bool = False) -> None:
        """Shows that a run ended.

        Args:
            name: the name of the run.
            status: its status.
            seconds: the time that all its commands have taken.
            reason: why it failed; "" otherwise.
            again: whether it will be tried again.
        """
        self.running.pop(name, None)
        self._repeated.pop(name, None)
        self._finished += status != STOPPED
        self.done += status == DONE
        self.failed += status == FAILED and not again
        text = f"{status:<7} {name}  "
        text += f"{duration(seconds)}  ({self._summary()})" if self._live else self._line(seconds)
        if status == FAILED:
            text += (", to be tried again" if again else "") + "".join(f"\n        {x}" for x in reason.splitlines())
        self.say(text)

    def elsewhere(self, name: str) -> None:
        """Shows that another process executes a run."""
        self.say(f"waiting {name}: a process of another sweep is executing it")

    def stopping(self, number: int, running: int, requests: int) -> None:
        """Shows that a signal was received, and what it does."""
        first = "saving and stopping; once more ends them at once"
        what = {1: first, 2: "ended at once; what they had saved stays"}.get(requests, "killed")
        self.say(f"{signal.Signals(number).name}: {running} running runs are {what}")

    def show(self) -> None:
        """Redraws the bars; in a log, it prints new last lines of the runs from time to time."""
        now = time.monotonic()
        if self._live:
            if now - self._shown > REFRESH:
                self._shown = now
                self._live.update(self._drawn(), refresh=True)
        elif due(now - self._begun, now - self._shown):
            self._shown = now
            for name, (_, log) in self.running.items():
                text = last_line(log)
                if text and text != self._repeated.get(name):
                    self._repeated[name] = text
                    self.say(f"running {name}  {text}")

    def _pace(self) -> tuple[float | None, float | None]:
        """(runs per minute, seconds that remain); None as long as no run has ended."""
        seconds = time.monotonic() - self._begun
        rest = self.total - self.done - self.failed
        if not self._finished or not seconds:
            return None, None
        return 60 * self._finished / seconds, seconds / self._finished * rest

    def _summary(self) -> str:
        rate, left = self._pace()
        failed = f", {self.failed} failed" if self.failed else ""
        pace = "" if rate is None else f", {rate:.3g} runs/min" + (f", ETA {duration(left)}" if left else "")
        return f"{self.done} of {self.total} done{failed}{pace}"

    def _line(self, seconds: float) -> str:
        rate, left = self._pace()
        used = process_memory.machine_memory()
        counts = {"seconds": round(seconds), "done": self.done, "failed": self.failed, "total": self.total}
        return line(counts | {"runs_per_minute": rate, "eta_seconds": left}, used and used[0])

    def _drawn(self) -> Group:
        used = process_memory.machine_memory()  # shown because the runs compete for it
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True, overflow="ellipsis")
        bar.add_column(ratio=1)
        text = f"{self._summary()}{f', memory {held(used)}' if used else ''}"
        bar.add_row(text, ProgressBar(self.total, self.done + self.failed))
        rows = Table.grid(padding=(0, 2), expand=True)
        longest = min(max(map(len, self.running), default=0), self.console.width // 2)
        rows.add_column(style="cyan", no_wrap=True, min_width=longest, overflow="ellipsis")
        rows.add_column(no_wrap=True, min_width=6)
        rows.add_column(style="dim", no_wrap=True, ratio=1, overflow="ellipsis")
        for name, (began, log) in self.running.items():
            rows.add_row(name, duration(time.monotonic() - began), Text(last_line(log)))
        return Group(bar, rows)


def last_line(log: pathlib.Path) -> str:
    """The last line of a run's log that is not empty; "" without one."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 400))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
