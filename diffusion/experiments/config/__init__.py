"""Configs as data: a run's recipe in numbers, strings, booleans, None, sequences and mappings, and what it may say."""

from collections.abc import Iterable
from typing import Any

from diffusion import public


class ConfigError(ValueError):
    """A mistake in a config: the message names the field, its value and what is valid."""


def unknown(path: str, name: Any, valid: Iterable[str], kind: str = "name") -> ConfigError:
    """The error for a name at a path of the config that is none of the valid ones, with the nearest of them first."""
    valid = sorted(valid)
    near = public.nearest(name, valid)
    hint = f" Did you mean {near!r}?" if near else ""
    return ConfigError(f"{path}: unknown {kind} {name!r}.{hint} Valid: {', '.join(valid) or '(none)'}.")
