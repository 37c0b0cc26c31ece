"""Ends the processes of a launcher that was killed; the launcher starts this process before any other.

Its standard input is a pipe. The launcher holds the other end, and so does each of its processes until it starts its
command. The line "+N" adds the process group N, and "-N" reports that the group ended. When the input ends, no holder
of the pipe is left, and this process kills every remaining group, including grandchildren. A launcher that receives
SIGKILL cannot clean up itself; this process does the most important part.
"""

import contextlib
import os
import signal
import subprocess
import sys


class Guard:
    """The launcher's handle of the guard process."""

    def __init__(self):
        # It has its own session, so that no signal to the launcher's group reaches it.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True
        )
        assert self._guard.stdin is not None  # it is a pipe
        self._pipe = self._guard.stdin

    def add_this(self) -> None:
        """Adds the group that the calling process leads; a child calls it before it runs its command.

        The child holds the pipe until then, so that the guard also ends it if the launcher is killed meanwhile.
        """
        os.write(self._pipe.fileno(), b"+%d\n" % os.getpid())

    def remove(self, group: int) -> None:
        """Removes a group that has ended, since another group may soon have its number."""
        with contextlib.suppress(BrokenPipeError):  # somebody ended the guard; the run goes on without it
            os.write(self._pipe.fileno(), b"-%d\n" % group)

    def close(self) -> None:
        """Ends the guard, which ends every remaining group."""
        self._pipe.close()
        self._guard.wait()


def main() -> None:
    """Reads until the launcher is gone, and then ends the remaining groups."""
    groups = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
