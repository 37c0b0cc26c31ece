"""The rows that every benchmark measures, prints and writes: our figure, a peer's, the limit's, and their ratios.

The same machine may give 200 and 500 GFLOP/s for the same matrix product within half an hour, so a time alone says
little. Our time, the peer's and the limit's are therefore measured one after the other, round after round, and a ratio
is the median of the rounds' ratios.
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

REST = 0.3  # seconds between measurements, in which the idle threads of the last program stop spinning


class Row(NamedTuple):
    """One line of the table: one quantity, measured for us, for a peer and for the limit in each round.

    Attributes:
        what: a phrase for what was measured, with its sizes.
        unit: the unit, "ms", "images/s", "GFLOP/s", "s", "%", "MB" ...
        more: True if more is better (rates), False if less is better (times, bytes).
        ours: our numbers, one for each round.
        peer: the peer's name and version; "" without a peer.
        theirs: the peer's numbers, one for each round; () without a peer.
        limit: the best that the machine can do, in the same unit, one number for each round; () if not measured.
        note: a remark for readers, e.g. which micro-batch was chosen; "" if there is none.
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
        """The factor by which ours is better than the peer's: (median, least, greatest) of the rounds' ratios."""
        return _spread(_better(self.more, self.ours, self.theirs)) if self.theirs else None

    @property
    def share(self) -> float | None:
        """The share of the limit that ours reaches, 0 to 1: the median of the rounds' shares."""
        return _spread(_better(self.more, self.ours, self.limit))[0] if self.limit else None


def interleaved(
    cases: Mapping[str, Callable[[], float]], rounds: int, rest: float = REST
) -> dict[str, tuple[float, ...]]:
    """Calls all cases in turn, round after round; every other round has the opposite order.

    Args:
        cases: {name: a function that measures something and returns a number}, which has run before.
        rounds: the number of rounds.
        rest: the seconds of rest before each call.

    Returns:
        {name: the numbers, one for each round}.
    """
    numbers_of = {name: [] for name in cases}
    for turn in range(rounds):
        for name in list(cases)[:: 1 if turn % 2 == 0 else -1]:
            time.sleep(rest)
            numbers_of[name].append(cases[name]())
    return {name: tuple(numbers) for name, numbers in numbers_of.items()}


def seconds(run: Callable[[], object]) -> Callable[[], float]:
    """A function that calls `run` and returns the seconds that it took; `run` must wait for its result."""

    def timed() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return timed


def second(case: Callable[[], float]) -> Callable[[], float]:
    """A function that measures a case twice, and returns the second number, as in a loop of the case.

    After a rest, or after another program, the memory that a step has freed is back at the system, or at the host of a
    virtual machine. In a loop, the next step can use it at once.
    """

    def measured() -> float:
        case()
        return case()

    return measured


class Peer:
    """A program of another library, in the environment of `make fixtures`, which answers each line with one line.

    Args:
        python: the Python of that environment.
        module: the module to run with -m; its first line of output, `about`, says its versions.
        *words: the arguments of the module.
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
        """The program's answer to a line; without an answer, this process ends with an error."""
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._said()

    def close(self) -> None:
        """Ends the program, which frees its memory."""
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
    """The rows as a table: medians with their ranges, the factor over the peer, and the share of the limit."""
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
    """Prints the table; if `out` names a file, also writes the rows there as JSON, in one atomic replacement."""
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
