"""Config files in Python: a function `get_config(arg)`, whose argument names a preset of the recipe."""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion.experiments.config import ConfigError, unknown


def load(file: str) -> ConfigDict:
    """The config of a Python file with `get_config(arg)`.

    Args:
        file: path, with an optional preset after a colon: `configs/cifar10_dit.py:tiny`.

    Returns:
        The ConfigDict that the file returns.

    Raises:
        ConfigError: where there is no such file or it defines no `get_config`.
    """
    path, _, preset = file.partition(":")
    check_is_file(path)
    spec = importlib.util.spec_from_file_location("loaded_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f'{path!r} defines no get_config(arg=""), which has to return the config.')
    return module.get_config(preset)


def check_is_file(path: str) -> None:
    """Refuses a config file that is not there.

    Raises:
        ConfigError: naming the path, and where recipes lie.
    """
    if not pathlib.Path(path).is_file():
        raise ConfigError(f"there is no config file {path!r}. Recipes lie in configs/, e.g. configs/digits.py.")


def preset(config: ConfigDict, arg: str, presets: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """Applies the preset that a command names after the colon, as in `configs/cifar10_dit.py:tiny`.

    Args:
        config: the recipe, changed in place.
        arg: a preset's name, or "" for the recipe itself.
        presets: for each name the dotted fields that it changes, e.g. {"tiny": {"train.steps": 20}}. A mapping as value
            replaces the whole entry.

    Returns:
        The config.

    Raises:
        ConfigError: where no preset has that name.
    """
    if not arg:
        return config
    if arg not in presets:
        raise unknown("the config's argument (after the colon)", arg, presets, "preset")
    for field, value in presets[arg].items():
        *parents, name = field.split(".")
        entry = config
        for parent in parents:
            if parent not in entry:
                raise ConfigError(f"preset {arg!r} changes {field}, but the config has no {parent!r}")
            entry = entry[parent]
        entry[name] = ConfigDict(value) if isinstance(value, Mapping) else value
    return config
