"""The user's code that extends a command, and the flags that name the code in later commands.

The user names the code on the command line, `--extend=my_ideas.py,mypaper.register,plugin:NAME`, or in the project file
of the current folder:

    [tool.diffusion]
    extend = ["mypaper.register"]

A config never names code.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import sys
import tomllib
import traceback
import types
from importlib.abc import Loader
from typing import NamedTuple

from diffusion.io import limits, opener
from diffusion.package import commands
from diffusion.recipe.config_errors import ConfigError, unknown
from diffusion.recipe.values import built_in_python

HOUSE = pathlib.Path(__file__).parents[1]  # the folder of the library itself
GROUP = "diffusion.plugins"  # the group of entry points for extensions
PLUGIN = "plugin:"
PROJECT = "pyproject.toml"
VALID = (
    "Valid: a Python file, my_ideas.py; a module that is installed or lies in the current folder, mypaper.register; an "
    f"entry point of the group {GROUP}, {PLUGIN}NAME. It calls names.add, as docs/extend.md shows."
)

# The function that does the work of a command, for a run that was built in Python.
CALLS = {
    "train": "diffusion.experiments.train.train",
    "sample": "diffusion.experiments.sampling.run_samples.sample",
    "reproduce": "diffusion.experiments.reproduce.repeat",
}


class Extension(NamedTuple):
    """An extension that was run.

    Attributes:
        name: the name by which the user called it.
        path: the file that was run.
        home: the folder of the file's package, or the file itself.
    """

    name: str
    path: pathlib.Path
    home: pathlib.Path


loaded: dict[str, Extension] = {}  # {name: extension}, in the order in which they were run
extended: list[str] = []  # the names of the extensions that the command line named


def extend(name: str) -> None:
    """Runs the user's code once, which adds functions to `diffusion.recipe.names`.

    Args:
        name: a Python file, a module, or "plugin:" with the name of an entry point.

    Raises:
        ConfigError: if there is no such code, or it fails; the message then has the failing line and the error.
    """
    _load(name, f"--extend={name}")
    if name not in extended:
        extended.append(name)


def extend_by_project() -> list[str]:
    """Runs the extensions that the project file of the current folder lists; returns their names.

    Raises:
        ConfigError: if the file cannot be read or has no such list, or under the conditions of `extend`.
    """
    path = pathlib.Path(PROJECT)
    if not path.is_file():
        return []
    try:
        listed = tomllib.loads(path.read_text("utf-8")).get("tool", {}).get("diffusion", {}).get("extend", [])
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path.absolute()} cannot be read: {error}") from error
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ConfigError(f"{path.absolute()}: tool.diffusion.extend = {listed!r}. Valid: a list of names. {VALID}")
    for name in listed:
        _load(name, f"{PROJECT}, tool.diffusion.extend, {name}")
    return listed


def _load(name: str, where: str) -> None:
    if name in loaded:
        return
    is_file = name.endswith(".py")
    point = _plugin(name.removeprefix(PLUGIN), where) if name.startswith(PLUGIN) else None
    home = _file(name, where) if is_file else _home(point.module if point else name, where)
    try:
        module = _run_file(home) if is_file else importlib.import_module(point.module if point else name)
        if point and callable(function := point.load()):
            function()
    except Exception as error:
        raise failed(where, home, error) from error
    loaded[name] = Extension(name, pathlib.Path(module.__file__ or home).absolute(), home)


def _file(name: str, where: str) -> pathlib.Path:
    if not pathlib.Path(name).is_file():
        raise ConfigError(f"{where}: there is no such Python file. {VALID}")
    return pathlib.Path(name).absolute()


def prepared(name: str, path: pathlib.Path) -> tuple[types.ModuleType, Loader]:
    """(the module of a file, which has not run yet; the loader, whose `exec_module` runs the module).

    Args:
        name: the module's name.
        path: the file, whose name ends in ".py".

    Raises:
        ConfigError: if the file's name ends otherwise.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file. Valid: a file whose name ends in .py")
    return importlib.util.module_from_spec(spec), spec.loader


def _run_file(path: pathlib.Path) -> types.ModuleType:
    called = f"extension_{path.stem}"
    if called in sys.modules:  # of another folder; its classes still look up their annotations by its name
        called += f"_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    module, loader = prepared(called, path)
    sys.modules[called] = module  # classes look up their annotations here
    loader.exec_module(module)
    return module


def _home(module: str, where: str) -> pathlib.Path:
    """The folder of a module's package, or the module's file; no code is run."""
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", module):
        raise ConfigError(f"{where}: this does not name code. {VALID}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # at the end, so that no file in the current folder replaces an installed module
    top = importlib.util.find_spec(module.partition(".")[0])
    folders = top.submodule_search_locations if top else None
    parts = module.split(".")[1:]
    if folders is not None and _is_in(pathlib.Path(folders[0]), parts):
        return pathlib.Path(folders[0]).absolute()
    if top is not None and folders is None and not parts and top.origin:
        return pathlib.Path(top.origin).absolute()
    raise ConfigError(f"{where}: there is no module {module!r}, neither installed nor in {here}. {VALID}")


def _is_in(folder: pathlib.Path, parts: list[str]) -> bool:
    path = folder.joinpath(*parts)
    return (path / "__init__.py").is_file() or path.with_suffix(".py").is_file()


def _plugin(name: str, where: str) -> importlib.metadata.EntryPoint:
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in points:
        raise unknown(where, name, points, f"entry point of {GROUP}")
    return points[name]


def failed(where: str, home: pathlib.Path, error: Exception) -> ConfigError:
    """An error of the user's code as a sentence, with the last line of the user's code that the error passed through.

    Args:
        where: the flag or the file that names the code.
        home: the file of the code, or the folder of the code's package.
        error: the error.
    """
    place = ""
    if line := failing_line(home, error):
        place = f", line {line[1]}" if home.is_file() else f", {line[0]}, line {line[1]}"
    kind = "" if place and isinstance(error, ConfigError) else f"{type(error).__name__}: "
    return ConfigError(f"{where}{place}: {kind}{error}")


def failing_line(home: pathlib.Path, error: Exception) -> tuple[str, int | None] | None:
    """(file, number) of the last line of the user's code that an error passed through; None if there is none."""
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        lines.append((error.filename or "", error.lineno))
    inside = lambda file: pathlib.Path(file).is_relative_to(home.absolute())
    return next(((file, line) for file, line in lines[::-1] if inside(file)), None)


def failed_extension(error: Exception) -> ConfigError | None:
    """The ConfigError for an error raised by an extension, or by a library that it called; None for another error."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if pathlib.Path(frame.filename).is_relative_to(HOUSE):
            return None
        for extension in loaded.values():
            if pathlib.Path(frame.filename).is_relative_to(extension.home):
                return failed(f"--extend={extension.name}", extension.home, error)
    return None


def way_on(name: str, folder: str | pathlib.Path) -> str:
    """The way to continue with a run: a command line, or a call if the run was built in Python.

    Args:
        name: the command, one of `CALLS`.
        folder: the run folder.
    """
    try:
        config = opener.read_table(pathlib.Path(folder) / "config.json")
    except (OSError, limits.Refused):
        config = {}  # the command will say what is wrong with the config
    if built_in_python(config):
        return f"{CALLS[name]}(recipe, {str(folder)!r})"
    return printed(name, f"--workdir={folder}")


def printed(name: str, *words: str) -> str:
    """A command line that a user can paste: quoted for a shell, and with the `--extend` flag of this process."""
    named = [f"--extend={','.join(extended)}"] if extended else []
    return commands.line(name, *words, *named)
