"""Mistakes in a config, in one sentence that names the field, its value and what is valid."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from diffusion.package import public


class ConfigError(ValueError):
    """A mistake in a config: the message names the field, its value and what is valid."""


@contextlib.contextmanager
def as_config_errors() -> Iterator[None]:
    """Turns errors of the library, and missing files, into mistakes of the command line."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(spoken(error)) from error


def spoken(error: Exception) -> str:
    """The message of an error; for an error of the operating system, a sentence that begins with the path."""
    if isinstance(error, OSError):
        from diffusion.io import failures  # which imports JAX; a command that starts does not wait for it

        if why := failures.full_disk(error):
            return str(failures.no_room(error.filename or "a file", why))
        if error.filename is not None and error.strerror:
            return f"{error.filename} cannot be used ({error.strerror}). Name another path."
    return str(error)


def unknown(path: str, name: Any, valid: Iterable[str], kind: str = "name") -> ConfigError:
    """The error for a name at a path of the config that is not valid; it lists the valid names, the nearest first."""
    valid = sorted(valid)
    near = public.nearest(name, valid)
    hint = f" Did you mean {near!r}?" if near else ""
    return ConfigError(f"{path}: unknown {kind} {name!r}.{hint} Valid: {', '.join(valid) or '(none)'}.")


def check_stages(config: Iterable[str], names: Sequence[str], recipe: str) -> None:
    """Refuses a config of several trainings whose fields are not `names`; `recipe` is one that has them.

    Raises:
        ConfigError: for another field, or one that is missing.
    """
    for name in config:
        if name not in names:
            raise unknown("config", name, names, "field")
    for name in names:
        if name not in config:
            raise ConfigError(f"config.{name} is missing. Start from the recipe {recipe}.")
