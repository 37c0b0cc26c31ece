"""The value that a sweep file returns, and its runs, which are all checked before the first one starts."""

import itertools
import pathlib
import re
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from diffusion.experiments.sweeps import growth, naming, sweep_folder
from diffusion.experiments.sweeps.combinators import Overrides, SweepError, distinct
from diffusion.experiments.sweeps.commands import Setting, overrides_as_words, require_extensions, settings
from diffusion.experiments.sweeps.sweep_folder import Plan, Record
from diffusion.io import file_systems, limits
from diffusion.recipe import ConfigError, extensions, recipes, unknown
from diffusion.recipe.values import differences, plain

FIELD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w.]*)\}")  # a field of the run, or one of FOLDERS, in a word of a command
FOLDERS = ("folder", "directory")  # the folder of the run, and the folder of the sweep
SHOWN = 12  # the most differences that an error names
OVERRIDES = "{overrides}"  # the word for --config.FIELD=VALUE of every field that no placeholder names


class Sweep(NamedTuple):
    """Many runs, and the commands of each.

    In a word of a command, "{folder}" stands for the run's folder, "{directory}" for the sweep's folder, and "{FIELD}"
    for the run's value of a field. The word "{overrides}" stands for --config.FIELD=VALUE of every other field.
    `commands.train`, `commands.sample` and `commands.evaluate` make the usual commands.

    Attributes:
        runs: the overrides of the runs, from `combinators`.
        commands: the commands of each run in their order, each as a list of words.
        seeds: fields over which figures are averaged, if they vary, with the seed of the training first: runs that
            share the value of the first one that varies count as one, by their mean.
        titles: extra fields that no config has. Each gives one name to a combination of other fields, as in
            zip(each("method", ("flow", "edm")), [{...}, {...}]). Names and tables then leave the other fields out.
    """

    runs: Sequence[Overrides]
    commands: Sequence[Sequence[str]]
    seeds: Sequence[str] = ("seed", "sample.seed")
    titles: Sequence[str] = ()


def is_tiny(arg: str) -> bool:
    """Whether the argument of `get_sweep` is "tiny", for a sweep with this preset only; "" is the full sweep.

    Raises:
        ConfigError: for any other argument, which would otherwise start the full sweep.
    """
    if arg not in ("", "tiny"):
        raise unknown("the sweep's argument (after the colon)", arg, ("tiny",), "preset")
    return arg == "tiny"


def load(file: str) -> Sweep:
    """Loads a sweep of this library by its name, or the sweep that `get_sweep(arg)` in a Python file returns.

    Args:
        file: the name or the path, with an optional preset, such as `mine.py:tiny`.

    Raises:
        ConfigError: if there is no such file, it returns no Sweep, or its code fails; the message then names the line
            and the error.
    """
    name, preset = recipes.name_and_preset(file, recipes.SWEEPS)
    path = recipes.path_of(name, recipes.SWEEPS)
    try:
        module = recipes.module(name, recipes.SWEEPS)
        if not hasattr(module, "get_sweep"):
            raise SweepError(f'{name!r} must define get_sweep(arg=""), which returns the sweep.')
        sweep = module.get_sweep(preset)
    except ConfigError:
        raise
    except Exception as error:
        raise extensions.failed(f"--sweep={name}", path, error) from error
    if not isinstance(sweep, Sweep):
        raise SweepError(f"{name!r}: get_sweep returns {limits.kind(sweep)}. Valid: a Sweep.")
    return sweep


def name_of(file: str) -> str:
    """The name of a sweep, from the names of its file and its preset."""
    path, _, preset = file.partition(":")
    return "_".join([pathlib.Path(path).stem, *([naming.text(preset)] if preset else [])])


def record(sweep: Sweep, file: str, directory: pathlib.Path, extended: Sequence[str] = ()) -> Record:
    """The runs of a sweep with their names and commands, after checking every config.

    Args:
        sweep: the sweep, from `load`.
        file: the value of --sweep.
        directory: the sweep's folder, which need not exist yet.
        extended: the names of the user's code on the command line, which the runs of a new sweep must name as well.

    Returns:
        The content of sweep.json; the runs that the folder already holds come first, see `growth`.

    Raises:
        ConfigError: if there is no run or no command, a run occurs twice (perhaps in another spelling), a field is
            unknown or no command uses it, or a config cannot be trained or sampled; the message names the run.
    """
    if why := file_systems.objection(directory):
        raise ConfigError(f"--workdir={directory} is {why}")
    runs = distinct([_plain(run) for run in sweep.runs], file)
    if not runs or not sweep.commands:
        raise SweepError(
            f"{file}: {len(runs)} runs of {len(sweep.commands)} commands. Valid: at least one run and one command."
        )
    names = naming.names(runs, sweep.titles)
    varies = naming.varying(runs, sweep.titles)
    named = {field for words in sweep.commands for word in words for field in PLACEHOLDER.findall(word)}
    valid = {*FOLDERS, "overrides", *(field for run in runs for field in run)}
    for field in sorted(named - valid):
        raise unknown(f"{file}: a command has {{{field}}}", field, valid, "placeholder")
    plans = [Plan(name, run, _commands(sweep, run, name, named)) for name, run in zip(names, runs)]
    if (directory / "sweep.json").exists():
        plans = growth.grown(plans, sweep_folder.read(directory).runs, directory)
    else:
        for plan in plans:
            require_extensions(sweep_folder.commands(directory, plan), extended)
    checked = _checked(plans, directory)
    bases = {setting.base: plain(recipes.load(setting.base)) for setting in checked if setting.base}
    seeds = [field for field in sweep.seeds if field in varies]
    return Record(name_of(file), file, varies, seeds, bases, plans)


def _plain(run: Overrides) -> dict[str, Any]:
    """The overrides of a run as plain values; refuses a field that is not a dotted path."""
    for field in run:
        if not isinstance(field, str) or not FIELD.fullmatch(field):
            raise SweepError(f"a run sets {field!r}. Valid: a field with its path, e.g. train.steps.")
    return {field: plain(value, f"config.{field}") for field, value in run.items()}


def _commands(sweep: Sweep, run: dict[str, Any], name: str, named: set[str]) -> list[list[str]]:
    """The words of a run's commands; "{folder}" and "{directory}" stay, since the sweep's folder may be moved."""
    rest = {field: value for field, value in run.items() if field not in {*named, *sweep.titles}}
    if rest and "overrides" not in named:
        raise SweepError(
            f"run {name} sets {', '.join(rest)}, which no command uses. Valid: a command with the word {OVERRIDES}, "
            f"as train(...) has, or with {{{next(iter(rest))}}}."
        )

    def put(match):
        field = match[1]
        if field in FOLDERS:
            return match[0]
        if field not in run:
            raise SweepError(f"run {name} does not set {field}, which a command names. Valid: a value in every run.")
        if isinstance(run[field], (dict, tuple)) or run[field] is None:
            raise SweepError(
                f"run {name}: {field} = {run[field]!r} cannot be part of a command's word. Valid: text or a number."
            )
        return str(run[field])

    filled = lambda word: overrides_as_words(rest) if word == OVERRIDES else [PLACEHOLDER.sub(put, word)]
    return [sweep_folder.current([part for word in words for part in filled(word)]) for words in sweep.commands]


def _checked(plans: Sequence[Plan], directory: pathlib.Path) -> list[Setting]:
    """Checks the configs of all commands, and returns their settings; refuses two runs with the same configs."""
    first_run: dict[Hashable, str] = {}
    every = []
    valid = set()
    for plan in plans:
        try:
            run_settings = settings(sweep_folder.commands(directory, plan), plan.overrides, valid)
        except ConfigError as error:
            raise ConfigError(f"run {plan.name}: {error}") from error
        every += run_settings
        same = growth.result_key(plan, run_settings)
        if run_settings and same in first_run:
            raise SweepError(
                f"runs {first_run[same]} and {plan.name} have the same config: where their overrides differ, they set "
                "the value of the base config, or spell one value in two ways. Valid: each config once."
            )
        first_run[same] = plan.name
    return every


def settle(directory: pathlib.Path, new: Record) -> int:
    """Writes sweep.json, unless the folder holds this sweep already, or another one.

    Returns:
        The number of runs that were added to a sweep that the folder held; 0 for a new sweep.

    Raises:
        SweepError: if the folder holds another sweep; the message lists the differences.
    """
    if not (directory / "sweep.json").exists():
        sweep_folder.write(directory, new)
        return 0
    old = sweep_folder.read(directory)
    lines = difference(old, new)
    if not lines:
        if new._replace(bases=old.bases) != old:  # more runs, or the same ones with other seeds or titles
            sweep_folder.write(directory, new)
        return len(new.runs) - len(old.runs)
    changes = "\n".join(f"  {line}" for line in lines[:SHOWN])
    more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    raise SweepError(
        f"--workdir={directory} holds another sweep:\n{changes}{more}\n"
        "Set these back to go on with it, or choose another --workdir. Runs may be added to a sweep."
    )


def difference(old: Record, new: Record) -> list[str]:
    """The changes from an earlier sweep, one line each; runs that are only added are no change."""
    lines = []
    before, after = ({run.name: run for run in record.runs} for record in (old, new))
    lines += [f"no longer a run: {name}" for name in before if name not in after]
    if lines:
        lines += [f"a new run: {name}" for name in after if name not in before]
    for name in [name for name in before if name in after]:
        for one, other in itertools.zip_longest(before[name].commands, after[name].commands, fillvalue=()):
            gone = " ".join(word for word in one if word not in other)
            come = " ".join(word for word in other if word not in one)
            if one != other:
                lines.append(f"other commands of {name}: {gone or '-'} -> {come or '-'}")
    for file in old.bases.keys() & new.bases.keys():
        lines += [f"{file}: {change}" for change in differences(old.bases[file], new.bases[file])]
    return lines
