"""Budgets of unpacking a file: bytes, members and seconds; a small file can ask for more than a machine has."""

import time

from diffusion.io import limits

FLOOR = 2**27  # bytes that any file may unpack to: 128 MiB
RATIO = 100  # times its size that a larger one may; pictures and texts unpack to at most about 20 times
MEMBERS = 10**6
SECONDS = 60.0  # CPU seconds of this thread; waiting for a slow disk does not count


def unpacked(stored: int) -> int:
    """The most bytes that a file may unpack to.

    Args:
        stored: its size in bytes.
    """
    return max(FLOOR, RATIO * stored)


class Budget:
    """The time and memory that reading one file may still take."""

    def __init__(self, what: str, size: int, members: int = MEMBERS, seconds: float = SECONDS):
        """Starts a budget.

        Args:
            what: name of the file, for the message.
            size: the most bytes that it may unpack to, e.g. `unpacked` of its size.
            members: the most members or frames that it may hold.
            seconds: the longest time that this thread may compute for it.
        """
        self._what = what
        self._most = {"bytes": size, "members": members}
        self._spent = {"bytes": 0, "members": 0}
        self._seconds, self._start = seconds, time.thread_time()

    def spend(self, size: int = 0, members: int = 0) -> None:
        """Takes bytes and members from the budget, before they are unpacked.

        Args:
            size: number of bytes to unpack, at least 0.
            members: number of members to unpack, at least 0.

        Raises:
            limits.Refused: if it is more than is left, or the time is over.
        """
        self._spent["bytes"] += size
        self._spent["members"] += members
        if self._spent["bytes"] > self._most["bytes"]:
            raise limits.Refused(
                f"{self._what} unpacks to {limits.size(self._spent['bytes'])} or more, but at most "
                f"{limits.size(self._most['bytes'])} are read from a file of its size: it is damaged or hostile. If "
                "it is sound, store it with less compression."
            )
        if self._spent["members"] > self._most["members"]:
            raise limits.Refused(
                f"{self._what} holds more than {self._most['members']:,} members: split it into several files."
            )
        if time.thread_time() - self._start > self._seconds:
            raise limits.Refused(
                f"{self._what} takes longer than {self._seconds:g} s to unpack: it is damaged or hostile."
            )
