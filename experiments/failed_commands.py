"""How a command ends when it fails: an expected error is one sentence, and no process waits for the others."""

import os
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

from absl import flags

from diffusion.recipe import ConfigError, spoken
from diffusion.recipe.extensions import failed_extension

flags.disclaim_key_flags()  # a flag that is defined while arguments are parsed belongs to the command
NO_BACKEND = "Unable to initialize backend"  # JAX's words for a platform that this machine lacks


def without_echoes(unraisable: Any) -> None:
    """Hides the line that TensorStore prints for each remaining file after one file of a checkpoint has failed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def without_waiting(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Ends a process of several at once after an unexpected error, since the others would wait for it at exit."""
    sys.__excepthook__(kind, error, trace)
    jax = sys.modules.get("jax")  # None if the command failed before the import
    if jax and jax.distributed.is_initialized() and issubclass(kind, Exception):
        leave(1)


def _missing_code(error: Exception) -> str:
    """A sentence on the user's code that the run in --workdir was trained with and that is not loaded; "" for none.

    Only errors of an unknown name, which advise --extend=FILE, are followed by it.
    """
    if "--extend=FILE" not in str(error) or "workdir" not in flags.FLAGS or not flags.FLAGS["workdir"].value:
        return ""
    from diffusion.experiments.run_folder import user_code

    workdir = flags.FLAGS["workdir"].value
    names = user_code.not_loaded(pathlib.Path(workdir))
    return f" The run in {workdir} was trained with --extend={','.join(names)}." if names else ""


def leave(status: int) -> NoReturn:
    """Ends the process without JAX's handler at exit, which would wait for the other processes."""
    if "jax" not in sys.modules:
        sys.exit(status)
    from diffusion.training.runtime import preemption

    preemption.leave(status)


def in_one_sentence(function: Callable, failures: tuple[type[Exception], ...]) -> Callable:
    """Wraps a function of argv: its expected errors are printed as one sentence, and end the process."""

    def wrapped(argv):
        try:
            return function(argv)
        except (ConfigError, *failures) as error:
            print(f"error: {spoken(error)}{_missing_code(error)}", file=sys.stderr)
            leave(2 if isinstance(error, ConfigError) else 1)
        except Exception as error:
            if isinstance(error, RuntimeError) and str(error).startswith(NO_BACKEND):
                print(f"error: JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {error}", file=sys.stderr)
                leave(2)
            sentence = failed_extension(error)
            if sentence is None:
                raise
            print(f"error: {sentence}", file=sys.stderr)
            leave(1)

    return wrapped
