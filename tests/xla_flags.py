"""XLA's flags for tests, as far as the installed XLA knows them: it ends every process that sets another."""

import os
import subprocess
import sys
from collections.abc import Sequence

NAME = "XLA_FLAGS"  # the environment variable, words with spaces between them
REFUSED = (
    "TESTS_REFUSED_XLA_FLAGS"  # likewise, words that XLA was found not to know; processes that tests start read it
)
PROBE = "import jax; jax.devices()"


def add(flags: Sequence[str]) -> None:
    """Adds to this environment the flags that XLA knows, beside those that it has.

    Args:
        flags: words such as `"--xla_cpu_parallel_codegen_split_count=1"`.
    """
    before, refused = (os.environ.get(name, "").split() for name in (NAME, REFUSED))
    fresh = [flag for flag in flags if flag not in before and flag not in refused]
    if fresh:  # not in pytest's workers, whose environment is that of the process that starts them
        new = known(fresh)
        os.environ[NAME] = " ".join([*before, *new])
        os.environ[REFUSED] = " ".join([*refused, *(flag for flag in fresh if flag not in new)])


def known(flags: Sequence[str]) -> list[str]:
    """The flags that XLA knows: a child process tries all at once, and one for each flag where that one ends.

    Args:
        flags: words as in `add`.
    """
    if _starts(flags):
        return [*flags]
    return [flag for flag in flags if _starts([flag])]


def _starts(flags: Sequence[str]) -> bool:
    environment = {**os.environ, NAME: " ".join(flags), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True).returncode == 0
