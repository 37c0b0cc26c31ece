"""Being told to stop: Ctrl-C, SIGTERM, and the notices of schedulers, turned into a question asked between steps."""

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
NOTICES = (signal.SIGUSR1, signal.SIGHUP)  # SLURM's warning and a lost terminal: as SIGTERM, however often they come
BEAT = 0.5  # seconds between two questions while one process works alone


class Interrupted(BaseException):
    """Work that can be repeated was left, because the run is to stop. (No handler of errors is to take it for one.)"""


class StopRequest:
    """Within its `with` block, a first SIGINT or SIGTERM only asks to stop; a second one ends the process at once.

    SIGUSR1 and SIGHUP stand for SIGTERM, but for those that the process was started to ignore (`nohup`).

    In a run of several processes all must stop at the same step: there JAX's own service spreads the notice that one
    process got as SIGTERM and chooses a step that none has passed.
    """

    def __init__(self):
        self._signal = None
        self._asked, self._reached = 0, False  # questions so far, as many on every process, and the answer
        self._previous: dict[int, Any] = {}
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def __enter__(self) -> "StopRequest":
        # jax.distributed listens to SIGTERM itself: a handler of ours would take it away.
        ours = SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)
        heard = [number for number in NOTICES if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._note) for number in (*ours, *heard)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        first = self._signal is None
        if number in NOTICES:
            self._leave_lost_terminals()
        else:
            signal.signal(number, signal.SIG_DFL)  # the kernel then ends it, even where Python waits for a hanging disk
        if first or number not in NOTICES:
            self._signal = int(signal.SIGTERM) if number in NOTICES else number
        if first and jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def _leave_lost_terminals(self) -> None:
        """Sends what is still to be said to nowhere, where a write to a terminal that is gone would end the run."""
        for descriptor in self._terminals:
            if not os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)

    def received(self) -> int | None:
        """Returns the number of the signal to stop for now, SIGINT or SIGTERM, or None.

        In a run of several processes each must ask as often as the others, and all get the answer at one question.
        """
        if jax.process_count() == 1:
            return self._signal
        self._ask(self._asked + 1)
        return (self._signal or int(signal.SIGTERM)) if self._reached else None

    def check(self) -> None:
        """Raises `Interrupted` if the run is to stop; asks as `received` does."""
        if self.received() is not None:
            raise Interrupted

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within it, the main thread is ended by `Interrupted`, wherever it is in Python, soon after a request to stop.

        For what one process does alone while the others wait for it. All of them must enter it, and leave it.
        """
        began, first, over, inside = time.monotonic(), self._asked, threading.Event(), True
        main = threading.get_ident()  # only the main thread may set a handler

        def end(number, frame):
            nonlocal inside
            if inside:
                inside = False
                raise Interrupted

        def watch():
            while not over.wait(BEAT):
                if jax.process_count() > 1:  # by the clock, so that all are at about the same question
                    self._ask(first + int((time.monotonic() - began) / BEAT))
                if self._reached or (jax.process_count() == 1 and self._signal):
                    return signal.pthread_kill(main, signal.SIGUSR2)  # wakes it from a wait

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
        """Brings the processes to the same number of questions, where they may have asked differently often."""
        self._ask(max(map(int, agreement.gather("questions", str(self._asked)))))

    def _ask(self, number: int) -> None:
        """Asks up to the question of that number: JAX says yes at one of them alone."""
        while self._asked < number:
            self._asked += 1
            self._reached = multihost_utils.reached_preemption_sync_point(self._asked) or self._reached


def leave(status: int) -> NoReturn:
    """Ends a process that has failed, and has said why, at once.

    In a run of several processes JAX would have it wait for the others, which wait for it in the next step; and what
    Orbax still had to write would fail with pages of its own. Process 0 stays a second longer: the coordinator ends
    with it, and what the others had to say would become pages of JAX's.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.distributed.is_initialized() and jax.process_index() == 0:
        time.sleep(1)
    os._exit(status)
