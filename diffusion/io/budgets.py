"""Budgets for unpacking a file: bytes, members and seconds. A small file can ask for more than a machine has."""

import time

from diffusion.io import limits

FLOOR = 2**27  # bytes to which every file may unpack: 128 MiB
RATIO = 100  # a larger file may unpack to so many times its size; pictures and texts need at most about 20 times
MEMBERS = 10**6  # most members of an archive
SECONDS = 60.0  # CPU seconds of this thread; waiting for a slow disk does not count


def unpacked(stored: int) -> int:
    """The largest number of bytes to which a file may unpack.

    Args:
        stored: the size of the file in bytes.
    """
    return max(FLOOR, RATIO * stored)


class Budget:
    """The time and memory that reading one file may still take."""

    def __init__(self, what: str, size: int, members: int = MEMBERS, seconds: float = SECONDS):
        """Starts a budget.

        Args:
            what: name of the file, for the message.
            size: the largest number of bytes to which the file may unpack, e.g. `unpacked` of its size.
            members: the largest number of members or frames that the file may hold.
            seconds: the longest CPU time in seconds that this thread may take to unpack the file.
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
            limits.Refused: if more is taken than is left, or the time is over.
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
