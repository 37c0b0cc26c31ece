"""Huge pages and few arenas for a command on CPU: settings that the C library reads before a process starts."""

import itertools
import os
import sys

from diffusion.package import commands

# XLA allocates and frees its large buffers with every step. The kernel then hands them out page by page, which took
# 40 % of the demo's step. All threads share two arenas: with an arena for each of many threads, the memory that
# evaluations free stays in small parts, and a run seems to grow for hours.
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=2"


def start_anew() -> None:
    """Starts this process once more with TUNABLES, if it is a command on Linux that sets none.

    The arguments and the process id stay. It repeats all imports before it, so that a command calls it early.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return
    if not _is_command(spec.name.removesuffix(".__main__")):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_command(module: str) -> bool:
    """Whether the words that started this process run the module: `python -m MODULE` or `diffusion COMMAND`."""
    words = sys.orig_argv
    named = [name for flag, name in itertools.pairwise(words) if flag == "-m"]
    return bool({module, commands.PROGRAM} & set(named)) or os.path.basename(words[1]) == commands.PROGRAM
