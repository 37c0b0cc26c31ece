"""Runs a command's module in this process with the flags of a command line, and removes the flags afterwards.

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

from diffusion.experiments import command_line


@contextlib.contextmanager
def set_aside() -> Iterator[flags.FlagValues]:
    """Removes all flags from absl's global set, except those of absl, and restores them afterwards.

    Other tests of the process define flags with the same names, and some do not remove them.
    """
    values = flags.FLAGS
    ours = lambda: [name for name in values if not str(values.find_module_defining_flag(name)).startswith("absl")]
    kept = {name: values[name] for name in ours()}
    for name in kept:
        delattr(values, name)
    try:
        yield values
    finally:
        for name in ours():
            delattr(values, name)
        for name, flag in kept.items():
            if name not in values:  # a short name was restored with its flag
                values[name] = flag
        values.unparse_flags()


@contextlib.contextmanager
def of(module: str, *words: str) -> Iterator[tuple[flags.FlagValues, Any]]:
    """Runs a command's module as `python -m` does, up to the call of its function.

    Args:
        module: the module's name; a package runs its `__main__`.
        words: the arguments of the command line.

    Yields:
        The parsed flags, and the call of `command_line.run`, which has `args` and `kwargs`.
    """
    parse = lambda takes_words=False: flags.FLAGS([module, *words])
    with (
        set_aside() as values,
        mock.patch.object(command_line, "begin", parse),
        mock.patch.object(command_line, "run") as run,
        mock.patch.object(sys, "argv", [module, *words]),
    ):
        runpy.run_module(module, run_name="__main__")
        yield values, run.call_args
