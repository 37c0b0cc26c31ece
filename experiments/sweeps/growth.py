"""A sweep to which runs are added: the runs in its folder stay as they are, and the new runs follow them.

The runs in the folder keep their names, although more fields may vary now. They keep their order as well, so that
`--run=5` of a task on a cluster is the same run before and after.
"""

import pathlib
from collections.abc import Callable, Hashable, Sequence

from diffusion.experiments.sweeps import naming, sweep_folder
from diffusion.experiments.sweeps.combinators import identity
from diffusion.experiments.sweeps.commands import Setting, settings
from diffusion.experiments.sweeps.sweep_folder import Plan
from diffusion.recipe import ConfigError


def grown(plans: Sequence[Plan], before: Sequence[Plan], directory: pathlib.Path) -> list[Plan]:
    """The runs of a sweep whose folder already holds runs.

    A run in the folder is one of the sweep's if both have the same overrides or the same configs: a run that sets no
    seed equals the run that sets the base config's seed.

    Args:
        plans: the runs of the sweep, as for a new folder.
        before: the runs that the folder holds.
        directory: the sweep's folder.

    Returns:
        First the runs of the sweep that the folder holds, in the folder's order and with its names; then the new runs.
    """
    valid: set[str] = set()
    result = lambda plan: result_of(plan, directory, valid)
    rest = {plan.name: plan for plan in plans}
    pairs = _matched(before, rest, lambda plan: identity(plan.overrides))
    if len(pairs) < len(before):
        pairs |= _matched([old for old in before if old.name not in pairs], rest, result)
    runs = []
    for old in before:
        if old.name in pairs:
            new = pairs[old.name]
            same = new.commands == old.commands or (result(old) is not None and result(old) == result(new))
            runs.append(Plan(old.name, new.overrides, old.commands if same else new.commands))
    taken = {name.casefold() for name in pairs}
    for plan in rest.values():
        name = plan.name
        if name.casefold() in taken:
            name = f"{name[: naming.LONGEST]}-{identity(plan.overrides)[:8]}"
        runs.append(plan._replace(name=name))
    return runs


def _matched(before: Sequence[Plan], rest: dict[str, Plan], key: Callable[[Plan], Hashable | None]) -> dict[str, Plan]:
    """{name of a run in the folder: the run of `rest` with the same key}; removes these runs from `rest`."""
    by_key = {key(plan): plan for plan in rest.values()}
    pairs = {}
    for old in before:
        mark = key(old)
        if mark is not None and mark in by_key:
            pairs[old.name] = by_key.pop(mark)
            del rest[pairs[old.name].name]
    return pairs


def result_of(plan: Plan, directory: pathlib.Path, valid: set[str]) -> Hashable | None:
    """The key of `result_key` for a run; None if its configs cannot be read, or it has none."""
    try:
        checked = settings(sweep_folder.commands(directory, plan), plan.overrides, valid)
    except ConfigError:
        return None
    return result_key(plan, checked) if checked else None


def result_key(plan: Plan, checked: Sequence[Setting]) -> Hashable:
    """What determines the result of a run: the words of its commands without overrides, and their complete configs."""
    bare = tuple(tuple(word for word in words if not word.startswith("--config.")) for words in plan.commands)
    return bare, tuple(setting.digest for setting in checked)
