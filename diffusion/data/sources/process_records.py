"""Records that worker processes read, where reading or decoding holds Python's interpreter lock."""

__all__ = ["ProcessRecords"]

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from diffusion.data.sources.spec import Derived, ManyAtOnce, Source, read_many
from diffusion.io import failures
from diffusion.package import public

ONE_THREAD: dict[str, str] = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ProcessRecords(Derived, ManyAtOnce):
    """A source whose records come from worker processes; it also has all other attributes of the source.

    Row r is read only by process r mod N, so that what a source keeps in memory is kept once. The processes begin when
    records are first read, and end with the last reference to this object, or with this process, however it ends.
    """

    def __init__(self, source: Source, reopen: Callable[[], Source], processes: int):
        """Args:
        source: the source, opened here.
        reopen: a function that pickles, and opens the same source in another process.
        processes: number N of worker processes, at least 1.
        """
        super().__init__(source)
        self._reopen = reopen
        self._number = processes
        self._starting = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._of, name)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the records of many rows.

        Raises:
            DamagedRecord: if the source raises it.
            failures.Unreadable: if a worker process ended, or the source raises it.
        """
        with self._starting:
            workers = self._workers
        shares: dict[int, list[int]] = {}
        for row in rows:
            shares.setdefault(row % self._number, []).append(row)
        try:
            reads = [(share, workers[number].submit(_records, share)) for number, share in shares.items()]
            by_row = {row: record for share, read in reads for row, record in zip(share, read.result())}
        except BrokenProcessPool as error:
            raise failures.Unreadable(
                f"a process that reads {self.where} has ended. See whether memory was short; "
                f"config.data.processes = {self._number} can be smaller."
            ) from error
        return [by_row[row] for row in rows]

    @functools.cached_property
    def _workers(self) -> list[ProcessPoolExecutor]:
        context = multiprocessing.get_context("spawn")  # a fork of JAX's threads may wait for ever
        begin = functools.partial(ProcessPoolExecutor, 1, context, _begin, (self._reopen,))
        workers = [begin() for _ in range(self._number)]
        with _environment(ONE_THREAD):  # or N processes would run N threads for each product of matrices
            for worker in workers:
                worker.submit(os.getpid)  # a process begins when it is given something to do
        return workers


_reopen: Callable[[], Source]
"""In a worker process: the function that opens its source."""


def _begin(reopen: Callable[[], Source]) -> None:
    """Prepares a worker process, which leaves signals to the process that began it, and ends with it."""
    global _reopen
    _reopen = reopen
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    import jax

    jax.config.update("jax_platforms", "cpu")  # the accelerator is the run's


@functools.cache
def _source() -> Source:
    return _reopen()


def _records(rows: list[int]) -> list[dict[str, Any]]:
    return read_many(_source(), rows)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for the time of a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


public.declare(__name__)
