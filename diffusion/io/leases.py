"""The right to train in a folder of an object store, which has no locks: one holder, whose heartbeat shows its life.

A snapshot names its holder, and only this holder may commit the next one; a heartbeat only says whether a successor
must wait. So two holders never mix their files, however wrong a clock is or however long a process sleeps: the next
commit of the earlier holder raises `snapshots.Fenced`. A successor compares two readings of one heartbeat, and never
two clocks.

    leases/000003.json     the heartbeat of the third holder, which only this holder writes
"""

import json
import time
from collections.abc import Callable
from typing import Any

from diffusion.io import limits
from diffusion.io.snapshots import Holder
from diffusion.io.stores import Store, StoreError

BEAT = 10.0  # seconds between two heartbeats
ENDS = 60.0  # seconds without a change of the heartbeat after which a holder counts as dead


class InUse(StoreError):
    """Another process trains in the folder."""


def say(store: Store, holder: Holder, beat: int, is_over: bool = False) -> None:
    """Writes a heartbeat, or that the holder has ended.

    Args:
        store: the store.
        holder: the holder, whose process calls this function.
        beat: a number that this holder has not written before.
        is_over: whether the holder has ended, and this is its last heartbeat.

    Raises:
        StoreError: if the heartbeat cannot be written.
    """
    store.write(_name(holder), json.dumps({"beat": beat, "is_over": is_over}).encode())


def require_over(
    store: Store,
    holder: Holder,
    token: str,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], Any] = time.sleep,
) -> None:
    """Returns when a holder has ended: its heartbeat says so, or has not changed for `ENDS` seconds.

    Returns at once if the holder worked in the local folder that this process has locked, because then it is dead.

    Args:
        store: the store.
        holder: the holder that the newest snapshot names.
        token: the token of the local folder that this process has locked.
        clock: a function that returns this machine's time in seconds.
        pause: a function that waits for a number of seconds.

    Raises:
        InUse: if the heartbeat of the holder changes, so that it is alive.
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
