"""The commands of a run, and the configs that they read."""

import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from diffusion.experiments import config_flag
from diffusion.experiments.command_words import named
from diffusion.experiments.flag_errors import missing_field
from diffusion.io import opener
from diffusion.package import commands as command_lines
from diffusion.recipe import ConfigError, checks, extensions, recipes, settings_checks, versions
from diffusion.recipe.values import config_hash, differences, plain
from diffusion.training.checkpointing import checkpoints


class Setting(NamedTuple):
    """The config of one command."""

    base: str  # the recipe or config file, with its preset; "" if the command reads the config of a run
    digest: str  # the hash of the config


def train(config: str, folder: str = "{folder}", *words: str) -> tuple[str, ...]:
    """The words of `diffusion train` for a run, with the run's overrides.

    Args:
        config: a recipe, such as "digits:tiny", or your own file.
        folder: the run folder.
        *words: further words of the command, such as "--config.train.steps=500".

    Raises:
        ConfigError: if a flag stands in the place of the folder.
    """
    if folder.startswith("-"):
        raise ConfigError(
            f"train: {folder!r}, the second argument, is a flag and no folder. Valid: train({config!r}, "
            f'"{{folder}}", {", ".join(map(repr, (folder, *words)))}).'
        )
    return ("diffusion", "train", f"--config={config}", f"--workdir={folder}", "{overrides}", *words)


def sample(*words: str, folder: str = "{folder}") -> tuple[str, ...]:
    """The words of `diffusion sample` for the run in a folder."""
    return ("diffusion", "sample", f"--workdir={folder}", *words)


def evaluate(*words: str, folder: str = "{folder}") -> tuple[str, ...]:
    """The words of `diffusion evaluate` for the run in a folder."""
    return ("diffusion", "evaluate", f"--workdir={folder}", *words)


def overrides_as_words(overrides: Mapping[str, Any]) -> list[str]:
    """The words --config.FIELD=VALUE of overrides {dotted field: plain value}."""
    word = lambda value: value if isinstance(value, str) else _literal(value)
    return [f"--config.{field}={word(value)}" for field, value in overrides.items()]


def _literal(value: Any) -> str:
    """A value in Python's syntax, with double quotes, since a shell needs single quotes around the word."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + "".join(f"{_literal(item)}, " for item in value).rstrip() + ")"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def settings(commands: Sequence[Sequence[str]], overrides: Mapping[str, Any], valid: set[str]) -> list[Setting]:
    """Checks the configs that the commands of a run would read.

    A command has a config if it names a recipe, or a run folder. The run exists, or an earlier command trains it.

    Args:
        commands: the words of each command, complete.
        overrides: the run's overrides, {dotted field: value}; a command that sets such a field must set this value.
        valid: digests of configs that were checked before; the function adds those that pass.

    Returns:
        A Setting for each command that has a config.
    """
    trained: dict[str, str] = {}  # config.json of the runs that these commands train, by their folders
    checked = []
    for words in commands:
        if not command_lines.name_of(words):
            continue
        for file in filter(None, (named(words, "extend") or "").split(",")):
            extensions.extend(file)
        base = named(words, "config")
        folder = named(words, "workdir")
        if base:
            start = recipes.load(base)
        elif folder:
            start = config_flag.settable(versions.read(trained.get(folder) or _saved(folder, words)))
        else:
            continue
        changes = [word for word in words if word.startswith("--config.")]
        config = parsed(start, changes)
        fields = {word.removeprefix("--config.").partition("=")[0] for word in changes}
        _require_set(config, {field: value for field, value in overrides.items() if field in fields})
        digest = config_hash(config)
        if digest not in valid:
            checks.validate(config)
            valid.add(digest)
        if base and folder and not checkpoints.steps(folder):
            settings_checks.require_sources(_without(config, trained))
        if base and folder:
            trained[folder] = versions.write(config)
        checked.append(Setting(base or "", digest))
    return checked


def require_extensions(commands: Sequence[Sequence[str]], extended: Sequence[str]) -> None:
    """Refuses a command of a run that would not load the user's code that it needs.

    A command needs the code that the sweep's command line names, and the code that the training of its folder names.

    Args:
        commands: the words of each command, complete.
        extended: the names of the code on the sweep's command line.
    """
    needed: dict[str, list[str]] = {}  # the names by the folders of the runs that the commands train
    for words in commands:
        if name := command_lines.name_of(words):
            folder = named(words, "workdir") or ""
            names = [part for part in (named(words, "extend") or "").split(",") if part]
            if lacking := [part for part in (*extended, *needed.get(folder, ())) if part not in names]:
                flag = f"--extend={','.join([*names, *lacking])}"
                raise ConfigError(
                    f"{shlex.join(words)} lacks {flag}: every command of a run is a process of its own, and imports "
                    f'only the code that its words name. Add "{flag}" to the words of {name} in the sweep\'s file.'
                )
            if named(words, "config"):
                needed[folder] = names


def parsed(config: ConfigDict, words: Sequence[str]) -> ConfigDict:
    """The config, with the changes of words --config.FIELD=VALUE."""
    values = flags.FlagValues()
    argv = ["sweep", *words]
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=argv, lock_config=False, accept_new_attributes=True
        )
        values(argv)
    except (AttributeError, KeyError) as error:
        raise ConfigError(f"{shlex.join(words)}: a field does not exist: {missing_field(error, words)}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise ConfigError(f"{shlex.join(words)}: {str(error).strip().splitlines()[-1]}") from error
    changed: Any = values["config"].value
    return changed


def _without(config: ConfigDict, trained: Mapping[str, str]) -> ConfigDict:
    """The config without the folders of runs that earlier commands will train."""
    paths = {name: config[name].path for name in ("teacher", "init_from")}
    return ConfigDict({name: {"path": "" if path in trained else path} for name, path in paths.items()})


def _saved(folder: str, words: Sequence[str]) -> str:
    try:
        return opener.read_text(pathlib.Path(folder) / "config.json")
    except OSError as error:
        raise ConfigError(
            f"{shlex.join(words)}: there is no run in {folder} ({error.strerror}). Train it first, or by an earlier "
            "command of the sweep."
        ) from error


def _require_set(config: ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Refuses a value that a command line cannot express, since it would be read back as another value."""
    expected = plain(config)
    for field, value in overrides.items():
        *parents, name = field.split(".")
        entry = expected
        for parent in parents:
            entry = entry[parent]
        entry[name] = plain(value)
    for change in differences(expected, config):
        raise ConfigError(
            f"config.{change.field} = {change.old!r} cannot be written on a command line, where it would be read as "
            f"{change.new!r}. Valid: another spelling, or a base config that holds it."
        )
