"""The flags of a command, in this process: as a command line of its own sets them, and gone again afterwards.

with command_flags.of("diffusion.experiments.prompt_benchmark", "--out=runs/a") as (values, module):
    module["main"]([])
"""

import contextlib
import runpy
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

from absl import flags

from diffusion.experiments.config import command_line


@contextlib.contextmanager
def of(module: str, *words: str) -> Iterator[tuple[flags.FlagValues, Any]]:
    """Runs a command's module as `python -m` does, up to the call of its function.

    Args:
        module: the module's name; of a package, that of its `__main__`.
        words: the command line.

    Yields:
        The flags, which are parsed, and the call of `command_line.run`, with `args` and `kwargs`.
    """
    values = flags.FLAGS
    before = set(values)
    parse = lambda takes_words=False: values([module, *words])
    try:
        with (
            mock.patch.object(command_line, "begin", parse),
            mock.patch.object(command_line, "run") as run,
            mock.patch.object(sys, "argv", [module, *words]),
        ):
            runpy.run_module(module, run_name="__main__")
            yield values, run.call_args
    finally:
        for name in set(values) - before:
            delattr(values, name)
        values.unparse_flags()
