"""The rows that every benchmark measures, prints and writes: (what, ours, peer, ratio, limit), taken in turn in one
run.

The same machine may give 200 and 500 GFLOP/s for the same matrix product within half an hour, so a time alone says
little. Our time, the peer's and the limit's are therefore measured one after the other, round after round, and the
ratio is the median of the rounds' ratios.
"""

import json
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

REST = 0.3  # seconds between measurements, in which the threads of one program stop to wait for work


class Row(NamedTuple):
    """One line of the table: the same quantity of ours, of a peer and of the limit, round by round.

    Attributes:
        what: a phrase for what was measured, with its sizes.
        unit: the unit, "ms", "images/s", "GFLOP/s", "s", "%", "MB" ...
        more: True where more is better (rates), False where less is (times, bytes).
        ours: our numbers, one a round.
        peer: the peer that it is compared with, with its version; "" if with nothing.
        theirs: the peer's numbers, one a round, or none.
        limit: the most that the machine can do, in the same unit, one number a round, or none.
        note: a remark that a reader has to know, e.g. which micro-batch was chosen; "" if nothing.
    """

    what: str
    unit: str
    more: bool
    ours: tuple[float, ...]
    peer: str = ""
    theirs: tuple[float, ...] = ()
    limit: tuple[float, ...] = ()
    note: str = ""

    @property
    def ratio(self) -> tuple[float, float, float] | None:
        """How many times ours is better than the peer's: (median, least, greatest) of the rounds' ratios."""
        return _spread(_better(self.more, self.ours, self.theirs)) if self.theirs else None

    @property
    def share(self) -> float | None:
        """The share of the limit that ours reaches, 0 to 1: the median of the rounds' shares."""
        return _spread(_better(self.more, self.ours, self.limit))[0] if self.limit else None


def interleaved(
    cases: Mapping[str, Callable[[], float]], rounds: int, rest: float = REST
) -> dict[str, tuple[float, ...]]:
    """Calls each in turn, round after round, in the opposite order every other round, after a rest each.

    Args:
        cases: {name: a function that measures itself and returns a number}; warm already.
        rounds: how often each is called.
        rest: the seconds of rest before each.

    Returns:
        {name: one number a round}.
    """
    numbers_of = {name: [] for name in cases}
    for turn in range(rounds):
        for name in list(cases)[:: 1 if turn % 2 == 0 else -1]:
            time.sleep(rest)
            numbers_of[name].append(cases[name]())
    return {name: tuple(numbers) for name, numbers in numbers_of.items()}


def seconds(run: Callable[[], object]) -> Callable[[], float]:
    """The function that runs `run`, which waits for its result, and returns the seconds that it took."""

    def timed() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return timed


def second(case: Callable[[], float]) -> Callable[[], float]:
    """The case as it goes on: measured twice, and only the second counts.

    After a rest, or another program's turn, the memory that a step gave back has gone back to the system, or to the
    host of a virtual machine; in a loop, the next step finds it again.
    """

    def measured() -> float:
        case()
        return case()

    return measured


class Peer:
    """Another library's program, in the environment of `make fixtures`, that answers each line by one line.

    Args:
        python: the Python of that environment.
        module: the module to run with -m; its first line says its versions (`about`).
        *words: its arguments.
    """

    def __init__(self, python: str, module: str, *words: str):
        self._process = subprocess.Popen(
            [python, "-m", module, *words],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=pathlib.Path(__file__).parents[1],
        )
        self.about = self._said()

    def ask(self, line: str) -> str:
        """Returns its answer; ends this program where it has none."""
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._said()

    def close(self) -> None:
        """Ends it, and gives its memory back."""
        self._process.stdin.close()
        self._process.wait()

    def _said(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(
                f"{' '.join(self._process.args)} ended with status {self._process.wait()}; what it said is above."
            )
        return line.strip()


def table(rows: Iterable[Row], title: str = "") -> Table:
    """The rows as people read them: medians with their range, how many times the peer, which share of the limit."""
    lines = Table("what", "ours", "peer's", "times the peer", "of the limit", "note", title=title)
    for row in rows:
        lines.add_row(
            row.what,
            f"{_said(row.ours)} {row.unit}",
            f"{_said(row.theirs)} ({row.peer})" if row.theirs else "",
            "{:.2f} ({:.2f} to {:.2f})".format(*row.ratio) if row.ratio else "",
            f"{row.share:.0%}" if row.limit else "",
            row.note,
        )
    return lines


def report(rows: list[Row], title: str, out: str | None) -> None:
    """Prints the table and, where `out` names a file, writes the rows there as JSON, at once and whole."""
    Console(width=140).print(table(rows, title))
    if out:
        path = pathlib.Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"title": title, "rows": [row._asdict() for row in rows]}, indent=1) + "\n")
        part.replace(path)


def read(path: pathlib.Path) -> tuple[str, list[Row]]:
    """(title, rows) of a file that `report` wrote."""
    content = json.loads(path.read_text())
    return content["title"], [
        Row(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})
        for row in content["rows"]
    ]


def _better(more: bool, ours: tuple[float, ...], other: tuple[float, ...]) -> np.ndarray:
    ours = np.array(ours)
    other = np.array(other)
    return ours / other if more else other / ours


def _spread(numbers: np.ndarray) -> tuple[float, float, float]:
    return float(np.median(numbers)), float(numbers.min()), float(numbers.max())


def _said(numbers: tuple[float, ...]) -> str:
    middle, low, high = _spread(np.array(numbers))
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
