"""A sweep to which runs are added: those that its folder holds stay as they are, and the new ones follow them.

The folder's runs keep their names, though more fields may vary now. They keep their order as well: `--run=5` of a task
on a cluster is the same run before and after.
"""

import pathlib
from collections.abc import Callable, Hashable, Sequence

from diffusion.experiments.sweeps import naming, sweep_folder
from diffusion.experiments.sweeps.combinators import identity
from diffusion.experiments.sweeps.commands import Setting, settings
from diffusion.experiments.sweeps.sweep_folder import Plan
from diffusion.recipe import ConfigError


def grown(plans: Sequence[Plan], before: Sequence[Plan], directory: pathlib.Path) -> list[Plan]:
    """The runs of a sweep whose folder holds runs already.

    A run of the folder is one of the sweep's if both set the same, or come to the same configs: a run that sets no seed
    is also the run of the base config's seed.

    Args:
        plans: the runs of the sweep, as for a new folder.
        before: the runs that the folder holds.
        directory: the sweep's folder.

    Returns:
        The runs of the folder that are the sweep's, in the folder's order and with its names, then the other runs of
        the sweep.
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
    taken = {old.name.casefold() for old in before}
    for plan in rest.values():
        name = plan.name
        if name.casefold() in taken:
            name = f"{name[: naming.LONGEST]}-{identity(plan.overrides)[:8]}"
        runs.append(plan._replace(name=name))
    return runs


def _matched(before: Sequence[Plan], rest: dict[str, Plan], key: Callable[[Plan], Hashable | None]) -> dict[str, Plan]:
    """{name of a run of the folder: the run of `rest` with the same key}; takes those runs out of `rest`."""
    by_key = {key(plan): plan for plan in rest.values()}
    pairs = {}
    for old in before:
        mark = key(old)
        if mark is not None and mark in by_key:
            pairs[old.name] = by_key.pop(mark)
            del rest[pairs[old.name].name]
    return pairs


def result_of(plan: Plan, directory: pathlib.Path, valid: set[str]) -> Hashable | None:
    """What a run comes to, see `come_to`; None if its configs cannot be read, or it has none."""
    try:
        checked = settings(sweep_folder.commands(directory, plan), plan.overrides, valid)
    except ConfigError:
        return None
    return come_to(plan, checked) if checked else None


def come_to(plan: Plan, checked: Sequence[Setting]) -> Hashable:
    """What a run comes to: the words of its commands apart from the overrides, and the configs that these make."""
    bare = tuple(tuple(word for word in words if not word.startswith("--config.")) for words in plan.commands)
    return bare, tuple(setting.digest for setting in checked)
