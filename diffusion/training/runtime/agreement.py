"""Messages between the processes of a run: short texts, through JAX's coordinator.

No device takes part, so that a process whose device or disk has failed can still report it.
"""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator

import jax

WAIT = 500  # milliseconds during which a process does not handle signals

_calls: collections.Counter[str] = collections.Counter()


def gather(about: str, text: str = "", seconds: float = float("inf")) -> list[str]:
    """Returns the texts of all processes, by their indices. All processes must call it equally often.

    Args:
        about: the subject of the message, the same on all processes.
        text: the text of this process.
        seconds: how long to wait for the others.

    Raises:
        TimeoutError: if a process has sent nothing by then; the message names it.
    """
    if jax.process_count() == 1:
        return [text]
    from orbax.checkpoint import multihost  # imported here: it belongs to the extra "train"

    _calls[about] += 1
    client = multihost.get_jax_distributed_client()
    call = f"{about}/{_calls[about]}"
    end = time.monotonic() + seconds
    client.key_value_set(f"diffusion/{call}/{jax.process_index()}", f"={text}")
    return [_get(client, call, index, end) for index in range(jax.process_count())]


class Abandoned(RuntimeError):
    """Process 0 has failed in work for which the others waited; its own output has the reason."""


def first(work: Callable[[], None]) -> None:
    """Runs a function only on process 0; the others wait for it, and fail if it fails.

    Args:
        work: the function.

    Raises:
        Abandoned: on the other processes, if `work` raised on process 0.
    """
    if jax.process_index() > 0:
        if gather("first")[0]:
            raise Abandoned("process 0 of this run has failed; the output of process 0 has the reason")
        return
    try:
        work()
    except BaseException:
        gather("first", "failed")
        raise
    gather("first")


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block that no process leaves before all have reached its end; an error leaves it at once.

    So a process may take any time to finish writing. If the others went on to their end, JAX would wait only some
    minutes for it (`sharding.LIMITS`) and abort them all.
    """
    yield
    gather("end")


def _get(client, call: str, index: int, end: float) -> str:
    while True:
        try:
            return client.blocking_key_value_get(f"diffusion/{call}/{index}", WAIT)[1:]
        except jax.errors.JaxRuntimeError as error:
            if not str(error).startswith("DEADLINE_EXCEEDED"):
                raise
            if time.monotonic() > end:
                raise TimeoutError(f"process {index} of this run does not respond") from error
