"""Being told to stop: Ctrl-C, SIGTERM, and the notices of schedulers, turned into a question asked between steps."""

import os
import signal
import sys
import types
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within its ``with`` block, a first SIGINT or SIGTERM only asks to stop; a second one ends the process at once.

    In a run of several processes all must stop at the same step: there JAX's own service spreads the notice that one
    process got as SIGTERM and chooses a step that none has passed.
    """

    def __init__(self):
        self._signal = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # jax.distributed listens to SIGTERM itself: a handler of ours would take it away.
        ours = SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)
        self._previous = {number: signal.signal(number, self._note) for number in ours}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self._signal = number
        signal.signal(number, signal.SIG_DFL)  # the kernel then ends it, even where Python waits for a disk that hangs
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def received(self, step: int) -> int | None:
        """Returns the number of the signal to stop for after this step, or None.

        Args:
          step: the number of updates made; in a run of several processes each must ask after every step.
        """
        if jax.process_count() > 1:
            reached = multihost_utils.reached_preemption_sync_point(step)
            return (self._signal or int(signal.SIGTERM)) if reached else None
        return self._signal


def leave(status: int) -> NoReturn:
    """Ends a process that has failed, and has said why, at once.

    In a run of several processes JAX would have it wait for the others, which wait for it in the next step; and what
    Orbax still had to write would fail with pages of its own.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
