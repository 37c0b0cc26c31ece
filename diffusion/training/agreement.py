"""What the processes of a run say to each other about anything but arrays: short texts, through JAX's coordinator.

No device takes part, so that a process whose device or disk has failed can still say so.
"""

import itertools
import time

import jax
from orbax.checkpoint import multihost

WAIT = 500  # milliseconds that a process is deaf to signals

_calls = itertools.count()


def gather(text: str = "", seconds: float = float("inf")) -> list[str]:
    """Returns the texts of all processes, by their indices. Each must call it, in the same order as any other call.

    Args:
      text: of this process.
      seconds: how long to wait for the others.

    Raises:
      TimeoutError: if one of them has said nothing by then; the message names it.
    """
    if jax.process_count() == 1:
        return [text]
    client, call, end = multihost.get_jax_distributed_client(), next(_calls), time.monotonic() + seconds
    client.key_value_set(f"diffusion/{call}/{jax.process_index()}", f"={text}")
    return [_get(client, call, index, end) for index in range(jax.process_count())]


def _get(client, call: int, index: int, end: float) -> str:
    while True:
        try:
            return client.blocking_key_value_get(f"diffusion/{call}/{index}", WAIT)[1:]
        except jax.errors.JaxRuntimeError as error:
            if not str(error).startswith("DEADLINE_EXCEEDED"):
                raise
            if time.monotonic() > end:
                raise TimeoutError(f"process {index} of this run does not answer") from error
