"""What one runs: train, sample, evaluate."""

import os
import sys

# On CPU, XLA takes and returns its large buffers with every step; the kernel then hands them out page by page, which
# was 40 % of the demo's step. Huge pages must be asked for before the process starts, so a command starts itself anew.
# Two arenas, shared by all threads: with one for each of many threads, what evaluations free stays in pieces, and a run
# seems to grow for hours.
if sys.platform == "linux" and sys.argv[0] == "-m" and "GLIBC_TUNABLES" not in os.environ:
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=2"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
