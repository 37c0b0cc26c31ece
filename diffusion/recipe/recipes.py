"""Config files in Python: a function `get_config(arg)`, whose argument names a preset of the recipe.

Your own file is named by its path, a recipe of this library by its name: `mine.py:tiny`, `digits:tiny`. A config can be
built on another one:

    config = recipes.load("digits")
"""

import pathlib
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion.recipe.config_errors import ConfigError, unknown
from diffusion.recipe.extensions import prepared
from diffusion.recipe.values import put

FOLDER = pathlib.Path(__file__).parents[1] / "configs"  # the library's recipes: configs/ in a clone
SWEEPS = FOLDER / "sweeps"


def load(recipe: str) -> ConfigDict:
    """The config of a recipe of this library, or of a Python file with `get_config(arg)`.

    Args:
        recipe: name or path, with an optional preset after a colon: `cifar10_dit:tiny`, `mine.py`.

    Raises:
        ConfigError: where there is no such recipe or file, its path has a colon, or it defines no `get_config`.
    """
    name, preset = name_and_preset(recipe)
    loaded = module(name)
    if not hasattr(loaded, "get_config"):
        raise without_get_config(name)
    return loaded.get_config(preset)


def name_and_preset(recipe: str, folder: pathlib.Path = FOLDER) -> tuple[str, str]:
    """("cifar10_dit", "tiny") for "cifar10_dit:tiny", and "" as the preset without a colon.

    Raises:
        ConfigError: if the path of a file has a colon, where its preset would begin.
    """
    name, _, preset = recipe.partition(":")
    path = recipe.rpartition(".py")[0] + ".py"
    if ":" in path and pathlib.Path(path).is_file():
        flag = "--sweep" if folder == SWEEPS else "--config"
        raise ConfigError(
            f"{flag}={recipe}: the path {path} has a colon, which would begin the preset. Valid: a path without a "
            "colon, such as a copy or a link elsewhere."
        )
    return name, preset


def without_get_config(name: str) -> ConfigError:
    """The error for a recipe's file that defines no `get_config`."""
    return ConfigError(
        f'{name!r} must define get_config(arg=""), which returns the config. The recipes of this library: '
        f"{', '.join(names())}."
    )


def module(name: str, folder: pathlib.Path = FOLDER) -> types.ModuleType:
    """The module of a recipe, for one that is built on another: `module("digits").PRESETS`; of a sweep, in SWEEPS."""
    loaded, loader = prepared("loaded_config", path_of(name, folder))
    loader.exec_module(loaded)
    return loaded


def names(folder: pathlib.Path = FOLDER) -> list[str]:
    """The recipes of this library, e.g. "digits" and "students/lcm"; in SWEEPS its sweeps."""
    function = "def get_sweep(" if folder == SWEEPS else "def get_config("
    paths = sorted([*folder.glob("*.py"), *folder.glob("*/*.py")])
    return [str(path.relative_to(folder).with_suffix("")) for path in paths if function in path.read_text()]


def path_of(name: str, folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """The file of a recipe, or of a sweep in SWEEPS, by its name or its path, which ends in ".py".

    Raises:
        ConfigError: where there is none, with the nearest name.
    """
    ours = folder / f"{name}.py"
    path = pathlib.Path(name) if name.endswith(".py") else ours
    if path.is_file():
        return path
    kind = "sweep" if folder == SWEEPS else "recipe"
    flag = "--sweep" if folder == SWEEPS else "--config"
    if name.endswith(".py"):
        named = pathlib.Path(*pathlib.Path(name).with_suffix("").parts[-2:])  # its name in a clone: configs/digits.py
        known = [valid_name for valid_name in (str(named), named.name) if valid_name in names(folder)]
        hint = f" The {kind} of this library is {flag}={known[0]}." if known else ""
        raise ConfigError(
            f"there is no {kind} file {name!r}.{hint} Valid: a Python file, or one of {', '.join(names(folder))}."
        )
    if pathlib.Path(f"{name}.py").is_file():
        raise ConfigError(
            f"{flag}={name}: there is no such {kind} in this library. For your file, write {flag}={name}.py."
        )
    raise unknown(flag, name, names(folder), kind)


def short(recipe: str) -> str:
    """The short name of a recipe of this library: `digits:tiny` for `configs/digits.py:tiny`; others are unchanged."""
    name, colon, preset = recipe.partition(":")
    path = pathlib.Path(name)
    if path.suffix == ".py" and path.is_file() and path.resolve().is_relative_to(FOLDER.resolve()):
        name = str(path.resolve().relative_to(FOLDER.resolve()).with_suffix(""))
    return f"{name}{colon}{preset}"


def preset(config: ConfigDict, arg: str, presets: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """Applies the preset that a command names after the colon, as in `cifar10_dit:tiny`; "" is the recipe itself.

    Args:
        config: the recipe, changed in place.
        arg: the preset's name.
        presets: the dotted fields that each preset changes, e.g. {"tiny": {"train.steps": 20}}. A mapping as value
            replaces the whole entry.

    Raises:
        ConfigError: where no preset has that name.
    """
    if not arg:
        return config
    if arg not in presets:
        raise unknown("the config's argument (after the colon)", arg, presets, "preset")
    for field, value in presets[arg].items():
        try:
            put(config, field, value)
        except KeyError as error:
            raise ConfigError(f"preset {arg!r} changes {field}, but the config has no such field: {error}") from error
    return config
