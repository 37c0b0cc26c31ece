"""How a command starts and ends: it parses its flags, and errors are one sentence."""

import functools
import gc
import logging as python_logging
import sys
import warnings
from collections.abc import Callable

from absl import app, flags, logging

from diffusion.experiments import config_flag, flag_errors, stored_paths
from diffusion.experiments.command_words import help_is_requested, named, program, with_home
from diffusion.experiments.failed_commands import in_one_sentence, without_echoes, without_waiting
from diffusion.io import file_systems, stores
from diffusion.package import public
from diffusion.recipe import ConfigError
from diffusion.recipe.extensions import extend, extend_by_project
from diffusion.training.runtime import accelerators, huge_pages

__all__ = ["begin", "require_counts", "require_multiple", "require_value", "run"]

flags.disclaim_key_flags()  # `--help` then lists --extend as a flag of the command, not of this module

CONFIG = ("RECORDING_FIELDS", "TRAINING_FIELDS", "flag", "saved_flag", "settable")
MOVED = {
    **dict.fromkeys(CONFIG, "diffusion.experiments.config_flag"),
    **dict.fromkeys(("help_is_requested", "joined_paths", "names"), "diffusion.experiments.command_words"),
    "take_stored_runs": "diffusion.experiments.stored_paths",
}
public.declare(__name__, elsewhere=MOVED)

_words: list[str] = []  # the words of the command line besides its flags, for a command that takes words


def begin(takes_words: bool = False) -> None:
    """Parses the command line, restarts the process with huge pages, and prints that the libraries are loaded.

    A command calls it once its flags are defined, and before it imports the libraries, which takes seconds. `--help`
    and a mistake in the command line are then answered at once.

    Args:
        takes_words: whether the command takes words besides its flags, such as folders.
    """
    warnings.showwarning = _show_in_one_line
    app.define_help_flags()
    _define_extend()
    parse = functools.partial(_parse, takes_words=takes_words)
    _words[:] = in_one_sentence(parse, (stores.StoreError,))(sys.argv)[1:]
    huge_pages.start_anew()
    if advice := accelerators.advice():
        print(f"{program()}: {advice}", file=sys.stderr)
    print(f"{program()}: loading the libraries", file=sys.stderr, flush=True)
    gc.disable()  # imports leave no garbage, and looking for it takes a tenth of their time; `run` looks again


def require_multiple(name: str, divisor: int) -> None:
    """Refuses a value of a whole-number flag that is not a multiple of a number.

    Args:
        name: the name of the flag, which is defined already.
        divisor: the number that must divide its value, at least 1.
    """
    words = f"the value is not a multiple of {divisor}. Valid: {divisor}, {2 * divisor} and so on."
    flags.register_validator(name, lambda value: value % divisor == 0, words)


def require_counts(name: str, least: int = 1) -> None:
    """Refuses an entry of a list flag that is not a whole number of at least 1, and too short a list.

    Args:
        name: the name of the flag, which is defined already.
        least: the least number of entries, at least 0.
    """
    words = (
        "an entry is missing, or no whole number of at least 1. Valid: such numbers, separated by commas, e.g. 8,32."
    )
    flags.register_validator(
        name, lambda values: len(values) >= least and all(value.isdecimal() and int(value) for value in values), words
    )


def require_value(name: str, values: Callable[[int], int], kind: str) -> None:
    """Refuses a value of a whole-number flag that is not in a sequence of numbers, and names the nearest of these.

    Args:
        name: the name of the flag, which is defined already.
        values: k -> the number k of the sequence, k = 0, 1, ...; it increases with k.
        kind: name of such a number, e.g. "a cube".
    """

    def check(value: int) -> bool:
        numbers = [values(0)]
        while numbers[-1] < value:
            numbers.append(values(len(numbers)))
        if value == numbers[-1]:
            return True
        nearest = min(numbers, key=lambda number: abs(number - value))
        raise flags.ValidationError(
            f"the value is not {kind}. Valid: {values(0)}, {values(1)}, {values(2)} and so on; the nearest is "
            f"{nearest}."
        )

    flags.register_validator(name, check)


def run(main: Callable, failures: tuple[type[Exception], ...] = (), compiles: bool = False) -> None:
    """Runs a command by `absl.app.run`; a mistake in the config ends it with one sentence and exit status 2.

    Args:
        main: the command, a function of the remaining arguments.
        failures: the types of errors whose message is meant for the user. They also end the command with one sentence,
            and with exit status 1.
        compiles: whether the command compiles programs; they are then stored for later runs (`compilation_cache`).
    """
    warnings.showwarning = _show_in_one_line
    _define_extend()
    main = stored_paths.sending_back(_keeping_programs(main) if compiles else main)
    sys.unraisablehook, sys.excepthook = without_echoes, without_waiting
    gc.freeze()  # the libraries stay to the end, so that no collection needs to look at them
    gc.enable()
    app.run(in_one_sentence(main, failures), flags_parser=in_one_sentence(_parse_and_extend, failures))


def _show_in_one_line(message: Warning | str, *_, **__) -> None:
    """Prints a warning without its place in the code, which says nothing to the user of a command."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def _define_extend() -> None:
    """Defines `--extend`. Every command has it, since each may read a run, or data, that names the user's code."""
    if "extend" not in flags.FLAGS:  # another command's module may have been imported
        flags.DEFINE_list(
            "extend", [], "your own code, imported first so that configs can name it: FILE.py, a module, plugin:NAME"
        )


def _keeping_programs(main: Callable) -> Callable:
    """Wraps a command: at its end it prints how many programs it compiled, and how many earlier runs had stored."""

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


def _parse_and_extend(argv: list[str]) -> list[str]:
    """Parses the command line unless `begin` has done so, and runs the user's own code."""
    if flags.FLAGS.is_parsed():
        remaining = [argv[0], *_words]
    else:
        remaining = _parse(argv)
        huge_pages.start_anew()
    if listed := extend_by_project():
        print(f"extended by {', '.join(listed)}, which pyproject.toml lists", file=sys.stderr)
    for name in flags.FLAGS["extend"].value or ():
        extend(name)
    config_flag.replace_deprecated_fields()
    return remaining


def _refuse_repeated_lists() -> None:
    """Refuses a flag of several values that stands twice on the command line, since absl reads only the last one."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag.parser, flags.ListParser) and flag.present > 1:
            raise ConfigError(
                f"--{name} is given {flag.present} times, but only the last one would count: "
                f"--{name}={','.join(flag.value or ())}. Valid: one flag, with commas between its values."
            )


def _parse(argv: list[str], takes_words: bool = False) -> list[str]:
    """Parses the flags; errors of absl and ml_collections become a ConfigError."""
    if named(argv, "workdir") == "":
        raise ConfigError("--workdir is empty. Valid: the folder of a run, e.g. --workdir=runs/digits.")
    argv, inputs = stored_paths.with_local_paths(with_home(argv))
    stored = named(argv, "workdir") if "stored" in stored_paths.workdir_kinds else None
    for arg in argv[1:]:
        word = arg.partition("=")[2] if arg.startswith("-") else arg
        if (why := file_systems.address(word)) and not (word == stored and stores.is_address(word)):
            raise ConfigError(f"{arg} is {why}")
    try:
        remaining = config_flag.parsed(argv)
        _refuse_repeated_lists()
        if not flags.FLAGS["verbosity"].present:
            # Orbax and TFDS log every file, and log errors that the command prints itself.
            logging.set_verbosity(logging.FATAL)
            python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
        if len(remaining) > 1 and not takes_words:
            raise ConfigError(f"unexpected argument {remaining[1]!r}. Write flags as --name=value.")
        if why := accelerators.refusal():
            raise ConfigError(why)
        for folder in inputs:
            folder.fetch()
        return remaining
    except SystemExit as end:
        raise SystemExit(0 if help_is_requested(argv) else end.code) from None  # absl ends its help with status 1
    except Exception as error:
        sentence = flag_errors.as_config_error(error, argv, named(argv, "config"), program())
        if sentence is None:
            raise
        raise sentence from error
