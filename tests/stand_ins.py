"""Programs that stand in for others, in folders that come first on PATH."""

import os
import shlex
import sys


def python_program(code: str) -> str:
    """The text of an executable that runs `code` by this Python, whose path may hold spaces: a `#!` line could not.

    Args:
        code: Python statements; `sys.argv[1:]` are the program's arguments.
    """
    return f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n'


def environment(path: str | None = None) -> dict[str, str]:
    """The least environment in which this Python starts: without its libraries' folder, one of a cluster may not.

    Args:
        path: PATH; this process's if None.
    """
    names = ("PATH", "LD_LIBRARY_PATH")
    least = {name: os.environ[name] for name in names if name in os.environ}
    return least | ({} if path is None else {"PATH": path})
