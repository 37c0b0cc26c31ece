"""The report of a sweep while it runs: written anew, beside the runs, whenever something has changed."""

import contextlib
import pathlib
import sys
import threading
import time
from collections.abc import Iterator

from experiments.sweeps import report, results

SHARE = 50  # times as long as one look takes is the least wait until the next: 2 % of a core


@contextlib.contextmanager
def following(directory: pathlib.Path, every: float = 10.0) -> Iterator[None]:
    """Keeps DIR/report.html up to date during a `with` block, from a thread, and once more at its end.

    A report that cannot be written stops no run: what is wrong is said once.

    Args:
        directory: of the sweep.
        every: seconds between two looks, at least.
    """
    over, version, told = threading.Event(), "", set()

    def look():
        nonlocal version
        began = time.monotonic()
        try:
            version = report.write(results.collect(directory), version)
        except Exception as error:
            if repr(error) not in told:
                told.add(repr(error))
                print(f"the report of {directory} could not be written: {error!r}", file=sys.stderr)
        return max(every, SHARE * (time.monotonic() - began))

    def follow():
        wait = look()
        while not over.wait(wait):
            wait = look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()
