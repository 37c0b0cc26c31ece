"""The flag --config of a command: a recipe, or the config of a saved run, with other values of its fields."""

import fnmatch
import mimetypes
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from diffusion.experiments.command_words import help_is_requested, named, program
from diffusion.experiments.stored_paths import workdir_kinds
from diffusion.io import file_systems, limits, opener
from diffusion.recipe import ConfigError, recipes, versions
from diffusion.recipe.extensions import printed
from diffusion.recipe.values import flattened, plain, require_names, require_sections

flags.disclaim_key_flags()  # `--help` then lists the flag under the command that defines it, not under this module

_unread: list[str] = []  # patterns of the fields that the command does not read
_saved: dict[str, Any] = {}  # the fields of the saved config, before the flags change it
_checks: list[Callable[[list[str]], None]] = []  # functions of the arguments that `parsed` calls first


def flag() -> None:
    """Defines `--config=RECIPE[:PRESET]`, and `--config.a.b=value` for each of its fields.

    The command must start by `command_line.run`. Unknown fields are accepted here and refused by `checks.validate`,
    which knows the arguments of each name: `--config.schedule.name=cosine --config.schedule.s=0.01` adds an argument.
    """
    _checks.append(_check_recipe)
    config_flags.DEFINE_config_file(
        "config",
        None,
        "config of the run: a recipe, with or without a preset, or your own file: digits, cifar10_dit:tiny, mine.py; "
        "--config.train.steps=100 changes a value",
        lock_config=False,
        accept_new_attributes=True,
    )


RECORDING_FIELDS = ("train.log_every", "checkpoint.*")
"""Patterns of the fields that say what a run writes and when."""

TRAINING_FIELDS = ("train.steps", "train.batch_size", "optimizer.*", *RECORDING_FIELDS)
"""Patterns of the fields that samples do not depend on."""


def saved_flag(
    unless: tuple[str, ...] = (),
    of_model: Callable[[str], ConfigDict | None] = lambda folder: None,
    unread: tuple[str, ...] = (),
) -> None:
    """Defines the flag `config` from the run in `--workdir`, changed by `--config.a.b=value`.

    The command defines the flag `workdir` itself, and must start by `command_line.run`.

    Args:
        unless: the flags with which the command has no config, such as "prompt"; a folder in --model may still have
            one, by `of_model`.
        of_model: a function from the folder in --model to its config, or to None if it has none.
        unread: patterns of fields that the command does not read, such as "train.steps"; a change of one is refused.
    """
    if help_is_requested():  # the fields are known only once a run is read
        flags.DEFINE_string(
            "config",
            None,
            "fields of the run's config with another value for this command: --config.FIELD=VALUE, where config.json "
            "of the run lists the fields",
        )
        return
    workdir_kinds.add("fetched")
    _unread[:] = unread
    _checks.append(lambda argv: _define_saved_flag(argv, unless, of_model))


def _check_recipe(argv: list[str]) -> None:
    """Refuses a missing --config, and a recipe that is not there."""
    recipe = named(argv, "config")
    if recipe is None and not help_is_requested(argv):
        raise ConfigError("--config is missing: the recipe to run, e.g. --config=digits.")
    if recipe is not None:
        recipes.path_of(recipes.name_and_preset(recipe)[0])


def _with_path(argv: list[str]) -> list[str]:
    """The arguments, with the recipe's file in place of the name in --config."""
    recipe = named(argv, "config")
    if recipe is None:
        return argv
    name, _ = recipes.name_and_preset(recipe)
    file = f"{recipes.path_of(name)}{recipe.removeprefix(name)}"
    flag_words = (f"--config={recipe}", f"-config={recipe}")
    after = lambda i: i > 0 and argv[i - 1] in ("--config", "-config")
    return [
        f"--config={file}" if word in flag_words else file if word == recipe and after(i) else word
        for i, word in enumerate(argv)
    ]


def no_run(workdir: str) -> str:
    """The message for a folder without config.json: how to train a run in it, or on the pictures that it holds."""
    folder = pathlib.Path(workdir)
    holders = (folder, *(path for path in folder.glob("*/") if not (path / "config.json").exists()))
    names = (str(path.relative_to(folder)) for holder in holders for path in holder.glob("*.*"))
    is_picture = lambda name: (mimetypes.guess_type(name, strict=False)[0] or "").startswith("image/")
    if picture := next(filter(is_picture, names), None):
        return (
            f"--workdir={workdir} holds pictures (such as {picture}) and no run. To train on them, name them in a "
            f"config by config.data.source.path = {workdir!r} (docs/tasks/own_pictures.md), and a new folder for the "
            "run: "
            f"{printed('train', '--config=FILE', '--workdir=runs/NAME')}"
        )
    return (
        f"--workdir={workdir} holds no run: it has no config.json. Train one by "
        f"{printed('train', '--config=digits', f'--workdir={workdir}')}"
    )


def _define_saved_flag(argv: list[str], unless: tuple[str, ...], of_model: Callable) -> None:
    """Defines `--config.a.b` from the config of the run that the arguments name."""
    workdir = named(argv, "workdir")
    model = named(argv, "model") if "model" in unless else None
    if model is not None and workdir is None and (config := of_model(model)) is not None:
        return _define(config, argv)
    if any(named(argv, name) is not None for name in unless):
        return
    if workdir is None:
        others = f" Without a run, name --{' or --'.join(unless)}." if unless else ""
        raise ConfigError(f"--workdir is missing: the folder of a run, e.g. --workdir=runs/digits.{others}")
    if why := file_systems.objection(workdir):
        raise ConfigError(f"--workdir={workdir} is {why}")
    if os.path.isfile(workdir):
        raise ConfigError(
            f"--workdir={workdir} is a file. Valid: the folder of a run, e.g. {os.path.dirname(workdir) or '.'}"
        )
    file = pathlib.Path(workdir) / "config.json"
    if not file.is_file():
        raise ConfigError(no_run(workdir))
    try:
        limits.no_links(file.parent)
        saved = versions.read(opener.read_text(file))
    except limits.Refused as error:
        raise ConfigError(f"--workdir={workdir}: {error}") from error
    require_sections(saved, workdir)
    require_names(saved, workdir)
    _define(saved, argv)


def _define(config: ConfigDict, argv: list[str]) -> None:
    """Defines `--config.a.b` from a config, and stores its values for `_refuse_unread`."""
    _saved.update(flattened(plain(config)))
    config_flags.DEFINE_config_dict(
        "config", settable(config), sys_argv=argv, lock_config=False, accept_new_attributes=True
    )


def _refuse_unread() -> None:
    """Refuses a change of a field that the command does not read, since it would have no effect."""
    if not (_saved and _unread):
        return
    changed = flattened(plain(flags.FLAGS["config"].value))
    for field, value in changed.items():
        unread = any(fnmatch.fnmatchcase(field, pattern) for pattern in _unread)
        if unread and (field not in _saved or _saved[field] != value):
            # `reproduce` computes a training step, which does not depend on config.sample.
            example = "those of config.sample" if "optimizer.*" in _unread else "those of config.optimizer"
            raise ConfigError(
                f"--config.{field}={value} has no effect: `{program()}` does not read {', '.join(_unread)}. Valid: "
                f"other fields, such as {example}."
            )


def parsed(argv: list[str]) -> list[str]:
    """Defines the fields of --config, parses the flags, and returns the words besides them.

    Raises:
        ConfigError: for a run or a recipe that does not exist, or a field that the command does not read.
    """
    for check in _checks:
        check(argv)
    words = flags.FLAGS(_with_path(argv) if _check_recipe in _checks else argv)
    _refuse_unread()
    return words


def settable(config: ConfigDict) -> ConfigDict:
    """The config, with placeholders put in place of None, since a flag cannot replace a plain None."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            settable(value)
        elif value is None:
            config[name] = placeholder(object)
    return config


def replace_deprecated_fields() -> None:
    """Moves fields of earlier versions in the config to their present places, and prints what it moved."""
    if not isinstance(config := getattr(flags.FLAGS, "config", None), ConfigDict):
        return
    from diffusion.recipe import deprecated_fields  # imported here: it needs the libraries

    current, said = deprecated_fields.current(config)
    for sentence in said:
        print(f"{program()}: {sentence}", file=sys.stderr)
    if said:
        for section in ("objective", "second_player"):
            config[section] = current[section]
