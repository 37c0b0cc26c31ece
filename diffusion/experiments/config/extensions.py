"""Files of a user's own that extend a command, and the command lines that name them again."""

import functools
import importlib.util
import pathlib
import sys
import traceback

from diffusion import commands
from diffusion.experiments.config import ConfigError

extended: list[str] = []  # the files that `extend` has run


@functools.cache
def extend(file: str) -> None:
    """Runs a Python file of the user's own once; it adds functions to `diffusion.experiments.config.names`.

    Args:
        file: its path, as the flag --extend names it.

    Raises:
        ConfigError: where there is no such file, or it fails: with its line and the error.
    """
    if not file.endswith(".py") or not pathlib.Path(file).is_file():
        raise ConfigError(
            f"--extend={file}: there is no such Python file. Valid: one that calls names.add, as docs/extend.md shows."
        )
    name = f"extension_{pathlib.Path(file).stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)  # where classes look for their annotations
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        whole = str(pathlib.Path(file).absolute())  # as Python names it in its frames
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == whole]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 1
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        raise ConfigError(f"--extend={file}, line {line}: {kind}{error}") from error
    extended.append(file)


def printed(name: str, *words: str) -> str:
    """A command line for a user to paste: quoted for a shell, with the files that extend this process.

    Args:
        name: of the command, e.g. "sample".
        words: its arguments, e.g. "--workdir=runs/my digits".
    """
    files = [f"--extend={','.join(extended)}"] if extended else []
    return commands.line(name, *words, *files)
