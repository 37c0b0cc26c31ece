"""The right to train in a folder of an object store, which has no locks: one holder, whose heartbeat shows its life.

A snapshot names its holder, and no other may commit one; a heartbeat only says whether a successor need wait. So two
holders never mix their files, however wrong a clock is or however long a process sleeps: the earlier one's next commit
raises `snapshots.Fenced`. Successors compare two readings of one heartbeat, and no two clocks.

    leases/000003.json     the heartbeat of the third holder, written by it alone
"""

import json
import time
from collections.abc import Callable
from typing import Any

from diffusion.io import limits
from diffusion.io.snapshots import Holder
from diffusion.io.stores import Store, StoreError

BEAT = 10.0  # seconds between two heartbeats
ENDS = 60.0  # seconds without a change after which a holder is held to be dead


class InUse(StoreError):
    """Another process trains in the folder."""


def say(store: Store, holder: Holder, beat: int, is_over: bool = False) -> None:
    """Writes a heartbeat, or that the holder has ended.

    Args:
        store: the store.
        holder: the holder, whose process calls this.
        beat: a number that it has not said before.
        is_over: whether this is the last one.

    Raises:
        StoreError: if it cannot be written.
    """
    store.write(_name(holder), json.dumps({"beat": beat, "is_over": is_over}).encode())


def require_over(
    store: Store,
    holder: Holder,
    token: str,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], Any] = time.sleep,
) -> None:
    """Returns once a holder has ended, said so or not; at once where it worked in this very folder.

    Args:
        store: the store.
        holder: the holder that the newest snapshot names.
        token: the token of the local folder that this process has locked; its holder of before is dead.
        clock: a function that returns this machine's time in seconds.
        pause: a function that waits for a number of seconds.

    Raises:
        InUse: if its heartbeat changes.
        StoreError: if the store fails.
    """
    if not holder.epoch or holder.token == token:
        return
    first = _heard(store, holder)
    end = clock() + ENDS
    while not (first and first.get("is_over")):
        if clock() >= end:
            return
        pause(BEAT / 2)
        now = _heard(store, holder)
        if now != first and not (now and now.get("is_over")):
            raise InUse(
                f"{store.address} is in use: {holder.who} is training there and still sends its heartbeat. Wait until "
                "that run has ended, stop it, or choose another folder."
            )
        first = now


def _heard(store: Store, holder: Holder) -> dict | None:
    """The last heartbeat of a holder; None if it has sent none."""
    try:
        said = limits.parse_json(store.read(_name(holder)), f"{store.address}/{_name(holder)}")
    except FileNotFoundError:
        return None
    return said if isinstance(said, dict) else None


def _name(holder: Holder) -> str:
    return f"leases/{holder.epoch:06d}.json"
