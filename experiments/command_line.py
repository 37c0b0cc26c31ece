"""How a command starts: its flags, the config that they name, and errors in one sentence."""

import argparse
import fnmatch
import functools
import gc
import logging as python_logging
import os
import pathlib
import re
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from diffusion.experiments import flag_errors
from diffusion.io import file_systems, limits, opener, stores
from diffusion.package import commands
from diffusion.recipe import ConfigError, recipes, spoken, versions
from diffusion.recipe.extensions import extend, extend_by_project, failed_extension, printed
from diffusion.recipe.values import flattened, plain, require_names, require_sections
from diffusion.training.runtime import accelerators, huge_pages

NO_BACKEND = "Unable to initialize backend"  # JAX's words for a platform that is not there

flags.disclaim_key_flags()  # `--help` then lists the flag under the command that defines it, not under this module


def extend_flag() -> None:
    """Defines `--extend`, which every command has: each may read a run, or data, that names the user's code."""
    if "extend" not in flags.FLAGS:  # another command's module may have been imported
        flags.DEFINE_list(
            "extend", [], "your own code, imported first so that configs can name it: FILE.py, a module, plugin:NAME"
        )


def flag() -> None:
    """Defines `--config=RECIPE[:PRESET]` with `--config.a.b=value` for any value of it; the command starts by `run`.

    Unknown fields are accepted here and refused by `checks.validate`, which knows what each name takes: that lets
    `--config.schedule.name=cosine --config.schedule.s=0.01` add an argument, and words the error for all of them.
    """
    extend_flag()
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

    The command defines the flag `workdir` itself, and starts by `run`.

    Args:
        unless: names of flags; with any of them the command has no config, unless --model names a folder that has one.
        of_model: a function from the folder of --model to its config, or None.
        unread: patterns of fields that the command does not read, such as "train.steps"; a change of one is refused.
    """
    extend_flag()
    if help_is_requested():  # the fields are known only once a run is read
        flags.DEFINE_string(
            "config",
            None,
            "fields of the run's config with another value for this command: --config.FIELD=VALUE, where config.json "
            "of the run lists the fields",
        )
        return
    _workdir_kinds.add("fetched")
    _unread[:] = unread
    _checks.append(lambda argv: _define_saved_flag(argv, unless, of_model))


def take_stored_runs() -> None:
    """Lets --workdir be the address of a run in an object store, which the command itself opens."""
    _workdir_kinds.add("stored")


_workdir_kinds: set[str] = set()  # what --workdir may name: a "stored" run, or one that is "fetched" first
_unread: list[str] = []  # patterns of the fields that the command does not read
_saved: dict[str, Any] = {}  # the fields of the saved config, before the flags change it
_readings: list = []  # runs that were fetched from a store
_outputs: list = []  # folders and files that are sent to a store
# An address in '{"name": "tar_files", "path": "s3://bucket/a"}'.
QUOTED = re.compile(r"""(["'])((?:s3|gs)://[^"'\\]+)\1""")
UNFETCHED = ("workdir", "config", "extend")  # a run has a form of its own, and code is not taken from a store
_checks: list[Callable[[list[str]], None]] = []  # functions of the arguments that `run` calls before parsing


def _named(argv: list[str], name: str) -> str | None:
    """The value of a flag, before flags are parsed; None if it is absent."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", f"-{name}", dest="value")
    return parser.parse_known_args(argv[1:])[0].value


def _asks_for_help(argv: list[str]) -> bool:
    return any(arg.lstrip("-") in ("help", "helpfull", "helpshort", "helpxml", "?") for arg in argv[1:])


def _check_recipe(argv: list[str]) -> None:
    """Refuses a missing --config, and a recipe that is not there."""
    recipe = _named(argv, "config")
    if recipe is None and not _asks_for_help(argv):
        raise ConfigError("--config is missing: the recipe to run, e.g. --config=digits.")
    if recipe is not None:
        recipes.path_of(recipe.partition(":")[0])


def _with_paths(argv: list[str]) -> list[str]:
    """The arguments, with the recipe's file in place of the name in --config."""
    recipe = _named(argv, "config")
    if recipe is None:
        return argv
    name, colon, preset = recipe.partition(":")
    file = f"{recipes.path_of(name)}{colon}{preset}"
    flag_words = (f"--config={recipe}", f"-config={recipe}")
    after = lambda i: i > 0 and argv[i - 1] in ("--config", "-config")
    return [
        f"--config={file}" if word in flag_words else file if word == recipe and after(i) else word
        for i, word in enumerate(argv)
    ]


def _define_saved_flag(argv: list[str], unless: tuple[str, ...], of_model: Callable) -> None:
    """Defines `--config.a.b` from the config of the run that the arguments name: its fields become known here."""
    workdir = _named(argv, "workdir")
    model = _named(argv, "model") if "model" in unless else None
    if model is not None and workdir is None and (config := of_model(model)) is not None:
        return _define(config, argv)
    if any(_named(argv, name) is not None for name in unless):
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
        raise ConfigError(
            f"--workdir={workdir} holds no run: it has no config.json. Train one by "
            f"{printed('train', '--config=digits', f'--workdir={workdir}')}"
        )
    try:
        limits.no_links(file.parent)
        saved = versions.read(opener.read_text(file))
    except limits.Refused as error:
        raise ConfigError(f"--workdir={workdir}: {error}") from error
    require_sections(saved, workdir)
    require_names(saved, workdir)
    _define(saved, argv)


def _define(config: ConfigDict, argv: list[str]) -> None:
    """Defines `--config.a.b` from a config, and keeps its values for `_refuse_unread`."""
    _saved.update(flattened(plain(config)))
    config_flags.DEFINE_config_dict(
        "config", settable(config), sys_argv=argv, lock_config=False, accept_new_attributes=True
    )


def _refuse_unread() -> None:
    """Refuses a change of a field that the command does not read, as it would have no effect."""
    if not (_saved and _unread):
        return
    changed = flattened(plain(flags.FLAGS["config"].value))
    for field, value in changed.items():
        unread = any(fnmatch.fnmatchcase(field, pattern) for pattern in _unread)
        if unread and (field not in _saved or _saved[field] != value):
            raise ConfigError(
                f"--config.{field}={value} has no effect: `{program()}` does not read {', '.join(_unread)}. Valid: "
                "other fields, such as those of config.sample."
            )


def settable(config: ConfigDict) -> ConfigDict:
    """The config with placeholders for None, since a flag cannot replace a plain None."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            settable(value)
        elif value is None:
            config[name] = placeholder(object)
    return config


def names(*others: str) -> bool:
    """Whether the command line has one of these flags, before flags are parsed."""
    return any(_named(sys.argv, name) is not None for name in others)


def help_is_requested() -> bool:
    """Whether the command line asks for help."""
    return _asks_for_help(sys.argv)


def joined_paths(parts: Sequence[str]) -> list[str]:
    """The paths of a flag that was split at commas, which may be part of a path: the folder of a sweep's run has some.

    Args:
        parts: the parts of the flag; as few as make an existing path are joined, and others stay as they are.
    """
    paths = []
    rest = list(parts)
    while rest:
        joined = [",".join(rest[:number]) for number in range(1, len(rest) + 1)]
        there = [pathlib.Path(path).expanduser().exists() for path in joined]
        number = there.index(True) if any(there) else 0
        paths.append(joined[number])
        rest = rest[number + 1 :]
    return paths


_words: list[str] = []  # the words of the command line besides its flags, for a command that takes words


def begin(takes_words: bool = False) -> None:
    """Parses the command line, restarts the process with huge pages, and says that the command begins.

    A command calls it once its flags are defined, before it imports the libraries, which takes seconds: then `--help`
    and a mistake in the command line are answered at once. Words besides flags, such as folders, need `takes_words`.
    """
    app.define_help_flags()
    extend_flag()
    parse = functools.partial(_parse, takes_words=takes_words)
    _words[:] = _in_one_sentence(parse, (stores.StoreError,))(sys.argv)[1:]
    huge_pages.start_anew()
    if advice := accelerators.advice():
        print(f"{program()}: {advice}", file=sys.stderr)
    print(f"{program()}: loading the libraries", file=sys.stderr, flush=True)
    gc.disable()  # imports leave no garbage, and looking for it takes a tenth of their time; `run` looks again


def program() -> str:
    """The words that started this process, without its arguments: `diffusion train`, `python -m benchmarks.loop`."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:  # a file that was started by its path
        return pathlib.Path(sys.argv[0]).name
    module = spec.name.removesuffix(".__main__")
    return " ".join(commands.current(["python", "-m", module]))


def run(main: Callable, failures: tuple[type[Exception], ...] = (), compiles: bool = False) -> None:
    """`absl.app.run`, where a mistake in the config ends the command with one sentence and exit status 2.

    Args:
        main: the command, a function of the remaining arguments.
        failures: the types of errors whose message is meant for the user: one sentence too, and exit status 1.
        compiles: whether the command compiles programs, which are then kept from run to run (`compilation_cache`).
    """
    main = _sending_back(_keeping_programs(main) if compiles else main)
    sys.unraisablehook, sys.excepthook = _without_echoes, _without_waiting
    gc.freeze()  # the libraries stay to the end, and need not be walked through again and again
    gc.enable()
    app.run(_in_one_sentence(main, failures), flags_parser=_in_one_sentence(_parse_and_extend, failures))


def _keeping_programs(main: Callable) -> Callable:
    """The command; at its end it prints how many programs it compiled, and how many it had from earlier runs."""

    def keeping(argv):
        import jax  # imported here: a mistake in the command line is answered without it

        from diffusion.training.runtime import compilation_cache

        with warnings.catch_warnings(record=True) as said:
            folder = compilation_cache.enable()
        for warning in said:
            print(f"{program()}: {warning.message}", file=sys.stderr, flush=True)
        warnings.filterwarnings("ignore", message=compilation_cache.NONE)  # the warning is shown
        with compilation_cache.counted(folder) as programs:
            try:
                result = main(argv)
            except SystemExit as end:
                result = end
        if programs.found + programs.compiled and jax.process_index() == 0:
            print(f"{program()}: {programs}", file=sys.stderr, flush=True)
        if isinstance(result, SystemExit):
            raise result
        return result

    return keeping


def _without_echoes(unraisable: Any) -> None:
    """Hides the line that TensorStore prints for every other file when one file of a checkpoint fails."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _without_waiting(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Ends the process after an unexpected error: JAX would wait for the other processes, and they for this one."""
    sys.__excepthook__(kind, error, trace)
    jax = sys.modules.get("jax")  # None if the command failed before the import
    if jax and jax.distributed.is_initialized() and issubclass(kind, Exception):
        _leave(1)


def _leave(status: int) -> NoReturn:
    """Ends the process; once JAX is imported, without its exit, which waits for the other processes."""
    if "jax" not in sys.modules:
        sys.exit(status)
    from diffusion.training.runtime import preemption

    preemption.leave(status)


def _parse_and_extend(argv: list[str]) -> list[str]:
    """Does what `begin` does, unless that was called, and runs the user's own code."""
    if flags.FLAGS.is_parsed():
        remaining = [argv[0], *_words]
    else:
        remaining = _parse(argv)
        huge_pages.start_anew()
    if listed := extend_by_project():
        print(f"extended by {', '.join(listed)}, which pyproject.toml lists", file=sys.stderr)
    for name in (flags.FLAGS["extend"].value if "extend" in flags.FLAGS else None) or ():
        extend(name)
    _replace_deprecated_fields()
    return remaining


def _replace_deprecated_fields() -> None:
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


def _refuse_repeated_lists() -> None:
    """Refuses a flag of several values that is named twice: absl takes the last alone."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag.parser, flags.ListParser) and flag.present > 1:
            raise ConfigError(
                f"--{name} is named {flag.present} times, and the last alone would count: "
                f"--{name}={','.join(flag.value or ())}. Valid: once, with commas between the values."
            )


def _with_home(argv: list[str]) -> list[str]:
    """The arguments, with the home folder for ~, which a shell leaves as it is in --workdir=~/runs/digits."""
    home = lambda word: os.path.expanduser(word) if word == "~" or word.startswith("~/") else word
    split = [arg.partition("=") if arg.startswith("-") else ("", "", arg) for arg in argv]
    return [f"{flag}{equals}{home(word)}" for flag, equals, word in split]


def _with_local_run(argv: list[str]) -> list[str]:
    """The arguments, with a local folder as --workdir if the command reads a run of an object store."""
    address = _named(argv, "workdir")
    if address is None or "fetched" not in _workdir_kinds or not stores.is_address(address) or _asks_for_help(argv):
        return argv
    from diffusion.experiments.run_folder import stored_runs  # imported here: it needs the libraries

    is_of_one = not any(_named(argv, name) for name in ("step", "average"))
    _readings[:] = [stored_runs.Reading(address, every=not is_of_one)]
    print(f"{program()}: {address} is read in {_readings[0].folder}", file=sys.stderr, flush=True)
    local = os.fspath(_readings[0].folder)
    return [local if word == address else word.replace(f"workdir={address}", f"workdir={local}") for word in argv]


def _with_local_folders(argv: list[str]) -> tuple[list[str], list, list]:
    """The arguments, with local paths in the place of addresses; the folders to fetch first, and those to send then."""
    flags_before = [word.lstrip("-") if word.startswith("-") and "=" not in word else "" for word in ("", *argv)]
    local, inputs, outputs = [], [], []

    def path(address: str, name: str) -> str:
        from diffusion.experiments.run_folder import stored_folders  # imported here: few commands need it

        folder = stored_folders.Output(address) if name == "out" else stored_folders.Input(address)
        (outputs if name == "out" else inputs).append(folder)
        return os.fspath(folder.path)

    for arg, before in zip(argv, flags_before):
        start, equals, word = arg.partition("=") if arg.startswith("-") else ("", "", arg)
        name = start.lstrip("-") or before
        if name not in UNFETCHED and not _asks_for_help(argv):
            if stores.is_address(word):
                word = path(word, name)
            else:  # an entry of several fields
                word = QUOTED.sub(lambda quoted, name=name: f"{quoted[1]}{path(quoted[2], name)}{quoted[1]}", word)
        local.append(f"{start}{equals}{word}")
    return local, inputs, outputs


def _sending_back(main: Callable) -> Callable:
    """The command; at its end it sends what it wrote to a store: its output, and files beside a run."""

    def sending(argv):
        try:
            result = main(argv)
            for output in _outputs:
                print(f"{program()}: sent {output.send()} files to {output.address}", file=sys.stderr, flush=True)
            return result
        finally:
            for reading in _readings:
                if number := reading.send_changes():
                    print(f"{program()}: sent {number} files to {reading.address}", file=sys.stderr, flush=True)

    return sending


def _parse(argv: list[str], takes_words: bool = False) -> list[str]:
    """Parses the flags; absl's and ml_collections' errors become ours."""
    if _named(argv, "workdir") == "":
        raise ConfigError("--workdir is empty: --workdir=. Name the folder of the run, e.g. runs/digits.")
    argv, inputs, _outputs[:] = _with_local_folders(_with_local_run(_with_home(argv)))
    stored = _named(argv, "workdir") if "stored" in _workdir_kinds else None
    for arg in argv[1:]:
        word = arg.partition("=")[2] if arg.startswith("-") else arg
        if (why := file_systems.address(word)) and not (word == stored and stores.is_address(word)):
            raise ConfigError(f"{arg} is {why}")
    try:
        for check in _checks:
            check(argv)
        remaining = flags.FLAGS(_with_paths(argv) if _check_recipe in _checks else argv)
        _refuse_unread()
        _refuse_repeated_lists()
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.FATAL)  # Orbax and TFDS log every file; their errors become ours
            python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)  # Orbax's errors too
        if len(remaining) > 1 and not takes_words:
            raise ConfigError(f"unexpected argument {remaining[1]!r}. Write flags as --name=value.")
        if why := accelerators.refusal():
            raise ConfigError(why)
        for folder in inputs:
            folder.fetch()
        return remaining
    except SystemExit as end:
        raise SystemExit(0 if _asks_for_help(argv) else end.code) from None  # absl ends its help with status 1
    except Exception as error:
        sentence = flag_errors.as_config_error(error, argv, _named(argv, "config"), program())
        if sentence is None:
            raise
        raise sentence from error


def _in_one_sentence(function: Callable, failures: tuple[type[Exception], ...]) -> Callable:
    """The function of argv, whose expected errors are printed as one sentence, and end the process."""

    def wrapped(argv):
        try:
            return function(argv)
        except (ConfigError, *failures) as error:
            print(f"error: {spoken(error)}", file=sys.stderr)
            _leave(2 if isinstance(error, ConfigError) else 1)
        except Exception as error:
            if isinstance(error, RuntimeError) and str(error).startswith(NO_BACKEND):
                print(f"error: JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {error}", file=sys.stderr)
                _leave(2)
            sentence = failed_extension(error)
            if sentence is None:
                raise
            print(f"error: {sentence}", file=sys.stderr)
            _leave(1)

    return wrapped
