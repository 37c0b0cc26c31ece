"""Configs as data: to JSON and back, a hash, the fields that differ, and the flag that reads them.

A config is an `ml_collections.ConfigDict` of numbers, strings, booleans, None, sequences and mappings, so that it is
written to and read from JSON without executing anything.
"""

import argparse
import difflib
import functools
import hashlib
import importlib.util
import json
import logging as python_logging
import pathlib
import shlex
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, FieldReference, config_flags
from ml_collections.config_dict import placeholder

from diffusion.io import limits
from experiments.run_folder import file_systems

flags.disclaim_key_flags()  # `--help` then lists the flag under the command that defines it, not under this module

MISSING = "(absent)"


class ConfigError(ValueError):
    """A mistake in a config: the message names the field, its value and what is valid."""


class Difference(NamedTuple):
    """One dotted field in which two configs differ; `MISSING` stands for a field that one of them lacks."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.old!r} -> {self.new!r}"


def unknown(path: str, name: Any, valid: Iterable[str], kind: str = "name") -> ConfigError:
    """The error for a name that is none of the valid ones, with the nearest of them first.

    Args:
        path: where it stands, e.g. `config.train`.
        name: the name that is not known.
        valid: the names that are.
        kind: what the name names, e.g. "field" or "sampler".

    Returns:
        A `ConfigError` to raise.
    """
    valid = sorted(valid)
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ConfigError(f"{path}: unknown {kind} {name!r}.{hint} Valid: {', '.join(valid) or '(none)'}.")


def plain(value: Any, path: str = "config") -> Any:
    """A config as plain dicts, tuples and scalars, so that two configs of the same content compare equal.

    Args:
        value: a ConfigDict, mapping, sequence or scalar (numpy scalars and arrays become numbers and tuples).
        path: where it stands, for the error.

    Returns:
        Nested dicts with sorted keys, tuples, and str, bool, int, float or None.

    Raises:
        ConfigError: where a value has no exact form in JSON (a function, an infinity ...).
    """
    if isinstance(value, FieldReference):
        value = value.get()
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{path}: the key {key!r} is a {type(key).__name__}. Valid: strings.")
        return {key: plain(value[key], f"{path}.{key}") for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return tuple(plain(item, f"{path}[{i}]") for i, item in enumerate(value))
    if isinstance(value, float) and not np.isfinite(value):
        raise ConfigError(f"{path} = {value!r} is not a finite number. Valid: finite numbers.")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ConfigError(
        f"{path} = {value!r} is a {type(value).__name__}. Valid: numbers, strings, booleans, None, "
        "sequences and mappings of them; name a function instead of passing it."
    )


def to_json(config: ConfigDict | Mapping) -> str:
    """A config as JSON text with sorted keys.

    Args:
        config: a ConfigDict or mapping.

    Returns:
        Text that `from_json` turns back into an equal config.

    Raises:
        ConfigError: where a value has no exact form in JSON.
    """
    return json.dumps(plain(config), indent=2, allow_nan=False)


def from_json(text: str) -> ConfigDict:
    """The config that `to_json` wrote; nothing is executed, and sequences come back as tuples.

    Args:
        text: JSON text of one object.

    Returns:
        A ConfigDict.

    Raises:
        ConfigError: where the text is not JSON, or not an object.
    """
    try:
        value = limits.parse_json(text, "it")
    except limits.Refused as refused:
        raise ConfigError(
            f"config.json is not JSON: {refused} It is written by experiments.train; restore it from "
            "there or start the run again."
        ) from refused
    if not isinstance(value, dict):
        raise ConfigError(f"config.json holds a {type(value).__name__}, not an object of fields.")
    value = plain(value)
    try:
        return ConfigDict(value)
    # A field that would hide a method of ConfigDict's, as "__class__", or has a dot in its name.
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"config.json holds a field that none may have: {error}.") from error


def of_run(text: str) -> ConfigDict:
    """The config of a run from its config.json; fields that came later than the run have values that change nothing.

    Args:
        text: JSON text of one object.

    Returns:
        A ConfigDict.

    Raises:
        ConfigError: as in `from_json`.
    """
    config = from_json(text)
    if isinstance(config.get("data"), ConfigDict) and "latents" not in config.data:
        config.data.latents = {"dir": "", "autoencoder": ""}
    if isinstance(config.get("data"), ConfigDict) and "changed" not in config.data:
        config.data.changed = "stop"
    if isinstance(config.get("data"), ConfigDict) and "buckets" not in config.data:
        config.data.buckets = {"area": 0, "multiple": 64, "widest": 4.0}
    if isinstance(config.get("data"), ConfigDict) and "text" not in config.data:
        config.data.text = {"tokenizer": "", "dir": ""}
    if isinstance(config.get("evaluate"), ConfigDict) and "failed" not in config.evaluate:
        config.evaluate.failed = "skip"
    if isinstance(config.get("ema"), ConfigDict) and "sigma_rel" not in config.ema:
        config.ema.sigma_rel = 0.0
    if isinstance(config.get("teacher"), ConfigDict) and "pairs" not in config.teacher:
        try:
            config.teacher.update({"scale": 1.0, "pairs": {"number": 0, "sampler": {"name": "heun"}, "steps": 20}})
        except TypeError as error:  # a scale that is no number
            raise ConfigError(f"config.json holds a teacher that none can be: {limits.reason(error)}.") from error
        config.rival = {"objective": {"name": ""}, "optimizer": {"name": "adamw", "learning_rate": 1e-4}, "updates": 1}
    return config


def digest(config: ConfigDict | Mapping) -> str:
    """A hash of a config's content that is the same on every machine and for every order of keys.

    Args:
        config: a ConfigDict or mapping.

    Returns:
        12 hexadecimal digits; equal for two configs exactly where `differences` finds none.
    """
    return hashlib.sha256(_canonical(plain(config)).encode()).hexdigest()[:12]


def _canonical(value: Any) -> str:
    """One text for each value: 1.0 is written as 1 (a flag may have made one of the other), True stays apart."""

    def spell(value):
        if isinstance(value, dict):
            return {key: spell(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return [spell(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return json.dumps(spell(value))


def differences(old: ConfigDict | Mapping, new: ConfigDict | Mapping) -> list[Difference]:
    """The dotted fields in which two configs differ, sorted.

    Args:
        old: a ConfigDict or mapping.
        new: another.

    Returns:
        A list of `Difference(field, old, new)`, e.g. `("train.steps", 2000, 4000)`; sequences are compared whole.
    """
    old = _flat(plain(old))
    new = _flat(plain(new))
    text = lambda values, field: _canonical(values[field]) if field in values else None
    return [
        Difference(field, old.get(field, MISSING), new.get(field, MISSING))
        for field in sorted(old.keys() | new.keys())
        if text(old, field) != text(new, field)
    ]


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted names; an empty dict stays, so that its absence shows."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


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
    _check_is_file(path)
    spec = importlib.util.spec_from_file_location("loaded_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f'{path!r} defines no get_config(arg=""), which has to return the config.')
    return module.get_config(preset)


extended: list[str] = []  # the files that `extend` has run


def printed(module: str, *words: str) -> str:
    """A command line for a user to paste: quoted for a shell, with the files that extend this process.

    Args:
        module: of the command, e.g. "sample".
        words: its arguments, e.g. "--workdir=runs/my digits".
    """
    files = [f"--extend={','.join(extended)}"] if extended else []
    return shlex.join(["python", "-m", f"experiments.{module}", *words, *files])


@functools.cache
def extend(file: str) -> None:
    """Runs a Python file of the user's own, which adds functions to the tables of `experiments.config.names`, once.

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


def _define_extend() -> None:
    if "extend" not in flags.FLAGS:  # another command's module may have been imported
        flags.DEFINE_list("extend", [], "Python files of your own, whose functions configs can name: docs/extend.md")


def flag() -> flags.FlagHolder:
    """Defines `--config=FILE[:PRESET]` with `--config.a.b=value` for any value of it; the command starts by `run`.

    Unknown fields are accepted here and refused by `checks.validate`, which knows what each name takes: that lets
    `--config.schedule.name=cosine --config.schedule.s=0.01` add an argument, and words the error for all of them.

    Returns:
        The flag's holder; `.value` is the ConfigDict after parsing.
    """
    _define_extend()
    _checks.append(_check_config_file)
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "config file and preset, e.g. configs/digits.py or configs/cifar10_dit.py:tiny; "
        "change a value by --config.train.steps=100",
        lock_config=False,
        accept_new_attributes=True,
    )


class SavedFlag:
    """What `saved_flag` returns; `.value` is the ConfigDict once `run` has parsed the flags."""

    @property
    def value(self) -> ConfigDict:
        return flags.FLAGS["config"].value


def saved_flag(unless: tuple[str, ...] = ()) -> SavedFlag:
    """Declares that a command takes its config from the run in `--workdir`, changed by `--config.a.b=value`.

    The command defines the flag `workdir` itself, and starts by `run`.

    Args:
        unless: flags with which it has no config, whether a `--workdir` is named or not.
    """
    _define_extend()
    _checks.append(lambda argv: _define_saved_flag(argv, unless))
    return SavedFlag()


_checks: list[Callable[[list[str]], None]] = []  # what `run` does with the arguments before they are parsed


def _named(argv: list[str], name: str) -> str | None:
    """The value of a flag before any is parsed; None where it is absent."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", f"-{name}", dest="value")
    return parser.parse_known_args(argv[1:])[0].value


def _asks_for_help(argv: list[str]) -> bool:
    return any(arg.lstrip("-") in ("help", "helpfull", "helpshort", "helpxml", "?") for arg in argv[1:])


def _check_config_file(argv: list[str]) -> None:
    file = _named(argv, "config")
    if file is None and not _asks_for_help(argv):
        raise ConfigError("--config is missing: the recipe to run, e.g. --config=configs/digits.py.")
    if file is not None:
        _check_is_file(file.partition(":")[0])


def _check_is_file(path: str) -> None:
    if not pathlib.Path(path).is_file():
        raise ConfigError(f"there is no config file {path!r}. Recipes lie in configs/, e.g. configs/digits.py.")


def _define_saved_flag(argv: list[str], unless: tuple[str, ...]) -> None:
    """Defines `--config.a.b` from the config of the run that the arguments name: only they say which fields it has."""
    workdir = _named(argv, "workdir")
    if any(_named(argv, name) is not None for name in unless):
        return
    if workdir is None:
        if _asks_for_help(argv):
            return
        others = f" Without a run, name --{' or --'.join(unless)}." if unless else ""
        raise ConfigError(f"--workdir is missing: the folder of a run, e.g. --workdir=runs/digits.{others}")
    if why := file_systems.objection(workdir):
        raise ConfigError(f"--workdir={workdir} is {why}")
    file = pathlib.Path(workdir) / "config.json"
    if not file.is_file():
        raise ConfigError(
            f"--workdir={workdir}: there is no run, for it holds no config.json. Train one by "
            f"{printed('train', '--config=configs/digits.py', f'--workdir={workdir}')}"
        )
    try:
        limits.no_links(file.parent)
        saved = of_run(limits.read_text(file))
    except limits.Refused as error:
        raise ConfigError(f"--workdir={workdir}: {error}") from error
    config_flags.DEFINE_config_dict(
        "config", settable(saved), sys_argv=argv, lock_config=False, accept_new_attributes=True
    )


def settable(config: ConfigDict) -> ConfigDict:
    """The config with None as a placeholder, for a flag could not replace a plain None."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            settable(value)
        elif value is None:
            config[name] = placeholder(object)
    return config


def begin() -> None:
    """Parses the command line, and says that the command begins.

    A command calls it once its flags are defined, before it imports the libraries, which takes seconds: then `--help`
    and a mistake in the command line are answered at once.
    """
    app.define_help_flags()
    _in_one_sentence(_parse, ())(sys.argv)
    print(f"{sys.modules['__main__'].__spec__.name}: loading the libraries", file=sys.stderr, flush=True)


def run(main: Callable, failures: tuple[type[Exception], ...] = ()) -> None:
    """`absl.app.run`, where a mistake in the config ends the command with one sentence and exit status 2.

    Args:
        main: function of the remaining arguments.
        failures: types of errors whose message is meant for the user: one sentence too, and exit status 1.
    """
    sys.unraisablehook, sys.excepthook = _without_echoes, _without_waiting
    app.run(_in_one_sentence(main, failures), flags_parser=_in_one_sentence(_parse_and_extend, failures))


def _without_echoes(told: Any) -> None:
    """When one file of a checkpoint fails, TensorStore prints this for each of the others."""
    if str(told.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(told)


def _without_waiting(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Leaves after an error that is no sentence; JAX would wait for the other processes, which wait for this one."""
    sys.__excepthook__(kind, error, trace)
    jax = sys.modules.get("jax")  # None where the command failed before it was imported
    if jax and jax.distributed.is_initialized() and issubclass(kind, Exception):
        _leave(1)


def _leave(status: int) -> NoReturn:
    """Ends the process, at once where JAX has been imported: it would wait for the other processes of the run."""
    if "jax" not in sys.modules:
        sys.exit(status)
    from diffusion.training.runtime import preemption

    preemption.leave(status)


def _parse_and_extend(argv: list[str]) -> list[str]:
    """Parses the flags, if `begin` has not done so, and runs the user's files."""
    remaining = [argv[0]] if flags.FLAGS.is_parsed() else _parse(argv)
    for file in flags.FLAGS["extend"].value if "extend" in flags.FLAGS else ():
        extend(file)
    return remaining


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; absl's and ml_collections' errors become ours."""
    if _named(argv, "workdir") == "":
        raise ConfigError("--workdir is empty. Name the folder of the run, e.g. runs/digits; this one is --workdir=.")
    for arg in argv[1:]:
        if why := file_systems.address(arg.partition("=")[2] if arg.startswith("-") else arg):
            raise ConfigError(f"{arg} is {why}")
    try:
        for check in _checks:
            check(argv)
        remaining = flags.FLAGS(argv)
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.FATAL)  # Orbax and TFDS tell of every file; their errors become ours
            python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)  # Orbax's too
        if len(remaining) > 1:
            raise ConfigError(f"unexpected argument {remaining[1]!r}: flags are written as --name=value.")
        return remaining
    except flags.Error as error:  # wraps what get_config raised, with its traceback: show our own sentence alone
        cause = error
        while cause is not None and not isinstance(cause, ConfigError):
            cause = cause.__cause__ or cause.__context__
        last = str(cause or error).strip().splitlines()
        raise ConfigError(last[-1].rpartition("ConfigError: ")[2]) from error
    except (AttributeError, KeyError) as error:
        raise ConfigError(
            f"a --config.FIELD does not exist: {error}. To add a nested entry, set it whole, e.g. "
            """--config.objective.coupling='{"name": "optimal_transport"}'."""
        ) from error


def _in_one_sentence(function: Callable, failures: tuple[type[Exception], ...]) -> Callable:
    def wrapped(argv):
        try:
            return function(argv)
        except (ConfigError, *failures) as error:
            print(f"error: {error}", file=sys.stderr)
            _leave(2 if isinstance(error, ConfigError) else 1)

    return wrapped
