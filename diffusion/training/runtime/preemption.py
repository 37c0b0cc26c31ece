"""Requests to stop: Ctrl-C, SIGTERM, and the notices of schedulers, which a run checks between steps."""

import contextlib
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

from diffusion.training.runtime import agreement

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICES = (signal.SIGUSR1, signal.SIGHUP)  # SLURM's warning, a lost terminal: a request to stop, however often
BEAT = 0.5  # seconds between two checks while one process works alone


class Interrupted(BaseException):
    """Repeatable work is interrupted, because the run must stop (not an `Exception`, so that no handler catches it)."""


class StopRequest:
    """Within its `with` block, a first SIGINT or SIGTERM only requests a stop; a second one ends the process at once.

    SIGUSR1 and SIGHUP act as SIGTERM, unless the process ignores them from its start (`nohup`).

    In a run of several processes all must stop at the same step: JAX's own service spreads the notice that one process
    received as SIGTERM, and chooses a step that none has passed.
    """

    def __init__(self):
        self._signal = None
        self._checks = 0  # number of checks so far, the same on every process
        self._reached = False  # whether a check has found the request
        self._previous: dict[int, Any] = {}
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def __enter__(self) -> "StopRequest":
        # jax.distributed handles SIGTERM itself: a handler of ours would replace its own.
        ours = SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)
        received = [number for number in NOTICES if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._note) for number in (*ours, *received)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        first = self._signal is None
        if number in NOTICES:
            self._leave_lost_terminals()
        else:
            signal.signal(number, signal.SIG_DFL)  # the kernel ends it, even while Python waits for a hanging disk
        if first or number not in NOTICES:
            self._signal = int(signal.SIGTERM) if number in NOTICES else number
        if first and jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def _leave_lost_terminals(self) -> None:
        """Discards further output to a terminal that is gone, since a write to it would end the run."""
        for descriptor in self._terminals:
            if not os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)

    def received(self) -> int | None:
        """Returns the number of the signal to stop for now, SIGINT or SIGTERM, or None.

        In a run of several processes each must check as often as the others, and all see the request at the same check.
        """
        if jax.process_count() == 1:
            return self._signal
        self._check_up_to(self._checks + 1)
        return (self._signal or int(signal.SIGTERM)) if self._reached else None

    def check(self) -> None:
        """Raises `Interrupted` if the run must stop; checks as `received` does."""
        if self.received() is not None:
            raise Interrupted

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within its block, a request to stop soon raises `Interrupted` in the main thread, wherever that is in Python.

        It is for work that one process does alone while the others wait. All of them must enter and leave the block.
        """
        began = time.monotonic()
        first = self._checks
        over = threading.Event()
        inside = True
        main = threading.get_ident()  # only the main thread may set a handler

        def end(number, frame):
            nonlocal inside
            if inside:
                inside = False
                raise Interrupted

        def watch():
            while not over.wait(BEAT):
                if jax.process_count() > 1:  # follows the clock, so that all are at about the same check
                    self._check_up_to(first + int((time.monotonic() - began) / BEAT))
                if self._reached or (jax.process_count() == 1 and self._signal):
                    # Wakes it from a wait, again at each beat: a signal just before the wait begins does not end it.
                    signal.pthread_kill(main, signal.SIGUSR2)

        previous = signal.signal(signal.SIGUSR2, end)
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            inside = False
            over.set()
            watcher.join()
            signal.signal(signal.SIGUSR2, previous)
            self.align()

    def align(self) -> None:
        """Brings the processes to the same number of checks, after work in which their numbers may differ."""
        self._check_up_to(max(map(int, agreement.gather("checks", str(self._checks)))))

    def _check_up_to(self, number: int) -> None:
        """Checks until that number of checks is reached: JAX reports the request at one of them alone."""
        while self._checks < number:
            self._checks += 1
            self._reached = multihost_utils.reached_preemption_sync_point(self._checks) or self._reached


def leave(status: int) -> NoReturn:
    """Ends a process at once, after it has failed and has printed the reason.

    In a run of several processes JAX would let it wait for the others, which wait for it in the next step, and
    unfinished writes of Orbax would print pages of errors. Process 0 stays a second longer: the coordinator ends with
    it, and the messages of the others would be lost in JAX's errors.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.distributed.is_initialized() and jax.process_index() == 0:
        time.sleep(1)
    os._exit(status)
