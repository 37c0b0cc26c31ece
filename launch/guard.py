"""Ends the processes of a launcher that was killed; the launcher starts this process before all others.

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
    """The guard, as its launcher holds it."""

    def __init__(self):
        # It has its own session: no signal to the launcher's group reaches it.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True
        )
        assert self._guard.stdin is not None  # it is a pipe
        self._pipe = self._guard.stdin

    def add_this(self) -> None:
        """Adds the group that the calling process leads: in a child, before it runs its command.

        The child holds the pipe until then, so that a launcher killed meanwhile leaves it to the guard all the same.
        """
        os.write(self._pipe.fileno(), b"+%d\n" % os.getpid())

    def remove(self, group: int) -> None:
        """Says that a group has ended: another may soon have its number."""
        with contextlib.suppress(BrokenPipeError):  # somebody ended the guard; the run goes on without
            os.write(self._pipe.fileno(), b"-%d\n" % group)

    def close(self) -> None:
        """Ends the guard, and every group that is left."""
        self._pipe.close()
        self._guard.wait()


def main() -> None:
    """Reads until the launcher is gone, then ends what it left."""
    groups = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
