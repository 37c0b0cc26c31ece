"""Programs that stand in for others, in folders that come first on PATH."""

import shlex
import sys


def python_program(code: str) -> str:
    """The text of an executable that runs `code` by this Python, whose path may hold spaces: a `#!` line could not.

    Args:
        code: Python statements; `sys.argv[1:]` are the program's arguments.
    """
    return f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n'
