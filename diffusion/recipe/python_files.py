"""Modules of Python files that no package holds: recipes, sweeps and users' extensions."""

__all__ = ["prepared"]

import importlib.util
import pathlib
import types
from importlib.abc import Loader

from diffusion.recipe.config_errors import ConfigError


def prepared(name: str, path: pathlib.Path) -> tuple[types.ModuleType, Loader]:
    """(the module of a file, which has not run, its loader, whose `exec_module` runs it).

    Args:
        name: the module's name.
        path: the file, whose name ends in ".py".

    Raises:
        ConfigError: for a file with another ending.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file. Valid: a file whose name ends in .py")
    return importlib.util.module_from_spec(spec), spec.loader
