"""Sets those flags of XLA that the installed XLA knows, since it ends every process that sets an unknown flag."""

import os
import subprocess
import sys
from collections.abc import Sequence

NAME = "XLA_FLAGS"  # the environment variable with the flags, separated by spaces
REFUSED = "TESTS_REFUSED_XLA_FLAGS"  # a variable with the flags that XLA does not know, so that no child tries them
PROBE = "import jax; jax.devices()"


def add(flags: Sequence[str]) -> None:
    """Adds those flags that XLA knows to the flags in this process's environment.

    Args:
        flags: words such as `"--xla_cpu_parallel_codegen_split_count=1"`.
    """
    before, refused = (os.environ.get(name, "").split() for name in (NAME, REFUSED))
    fresh = [flag for flag in flags if flag not in before and flag not in refused]
    if fresh:  # empty in pytest's workers, which inherit the environment
        new = known(fresh)
        os.environ[NAME] = " ".join([*before, *new])
        os.environ[REFUSED] = " ".join([*refused, *(flag for flag in fresh if flag not in new)])


def known(flags: Sequence[str]) -> list[str]:
    """The flags that XLA knows.

    A child process tries all flags at once; if XLA ends it, a further child tries each flag alone.

    Args:
        flags: words as in `add`.
    """
    if _starts(flags):
        return [*flags]
    return [flag for flag in flags if _starts([flag])]


def _starts(flags: Sequence[str]) -> bool:
    environment = {**os.environ, NAME: " ".join(flags), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True).returncode == 0
