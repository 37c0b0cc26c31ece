"""The variations of a sweep, as lists of overrides, and functions that combine them.

    runs = product(each("parameterization.name", ("epsilon", "x0", "v")), each("seed", range(3)))  # 9 runs

The overrides of a run are a dict {dotted field: value}, and a list of such dicts is a list of runs. `product` and
`chain` combine such lists. Both are associative; `[{}]` is neutral for `product`, and `[]` for `chain`. They are
distributive: product(chain(a, b), c) equals chain(product(a, c), product(b, c)), in the same order. An empty product
is an error, and so is a run that occurs twice.
"""

import builtins
import collections
import itertools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion.arrays import arguments
from diffusion.experiments.sweeps.distributions import Distribution
from diffusion.recipe import ConfigError
from diffusion.recipe.values import config_hash

Overrides = dict[str, Any]
SHOWN = 5  # the most duplicates that an error names


class SweepError(ConfigError):
    """A mistake in a sweep: the message names it and what is valid."""


def each(field: str, values: Iterable[Any]) -> list[Overrides]:
    """One run for each value of a field.

    Args:
        field: the field's dotted name, as in --config.train.steps.
        values: the values to try, in the order of the runs; any values that a config can hold, e.g. {"name":
            "min_snr", "gamma": 5.0}.

    Raises:
        SweepError: for no values, or a value that occurs twice.
    """
    runs = [{field: value} for value in values]
    if not runs:
        raise SweepError(f"each({field!r}, []) has no values. Valid: at least one value.")
    return distinct(runs, f"each({field!r})")


def product(*factors: Sequence[Overrides]) -> list[Overrides]:
    """Every combination of one run from each factor; the last factor varies fastest. Without factors, [{}].

    The factors must set different fields. A later factor may set a part of an entry that an earlier one sets, such as
    "objective.weighting" after "objective".

    Raises:
        SweepError: if a factor is empty, or two of them set the same field.
    """
    for number, factor in enumerate(factors, start=1):
        if not _listed(factor, "product"):
            raise SweepError(
                f"product: factor {number} of {len(factors)} is empty, so the product would be empty too. Valid: at "
                "least one run in each factor; [{}] is one run that changes nothing."
            )
    return distinct([_merged(parts, "product") for parts in itertools.product(*factors)], "product")


def zip(*columns: Sequence[Overrides]) -> list[Overrides]:  # named after Python's own zip
    """Combines run i of every list into one run, for fields that vary together.

    The lists must have the same length, and set different fields.

    Raises:
        SweepError: if there is no list, the lengths differ, or two lists set the same field.
    """
    lengths = [len(_listed(column, "zip")) for column in columns]
    if not columns or len(set(lengths)) > 1 or not lengths[0]:
        raise SweepError(
            f"zip of lists of {', '.join(map(str, lengths)) or 'no'} runs. Valid: the same number in each, at least "
            "one; to get every combination, use product."
        )
    return distinct([_merged(parts, "zip") for parts in builtins.zip(*columns)], "zip")


def chain(*parts: Sequence[Overrides]) -> list[Overrides]:
    """The runs of several lists, one list after another; a list may be empty.

    Raises:
        SweepError: if a run occurs twice.
    """
    return distinct([dict(run) for part in parts for run in _listed(part, "chain")], "chain")


def sample(n: int, seed: int, space: Mapping[str, Distribution]) -> list[Overrides]:
    """Draws n runs at random: each field from its own distribution, independently, and the same on every machine.

    The values of a field depend only on the seed and its name, so that they stay if a field or further runs are added.

    Args:
        n: the number of runs.
        seed: the seed of the draws, an integer, at least 0.
        space: {field: distribution}, from `diffusion.experiments.sweeps.distributions`.

    Raises:
        SweepError: if n < 1, there is no field, or a run occurs twice.
    """
    if not arguments.fits(n, int) or n < 1 or not space:
        raise SweepError(f"sample: n = {n!r} runs of {len(space)} fields. Valid: at least one run and one field.")
    if not arguments.fits(seed, int) or seed < 0:
        raise SweepError(f"sample: seed = {seed!r}. Valid: an integer, at least 0.")
    draws = {field: np.random.default_rng([seed, zlib.crc32(field.encode())]).random(n) for field in space}
    runs = [{field: space[field](float(draws[field][i])) for field in space} for i in range(n)]
    return distinct(runs, "sample")


def identity(run: Overrides) -> str:
    """A hash of the overrides of a run: the same for 1 and 1.0, as in configs, and for any order of the fields."""
    return config_hash(dict(run))


def distinct(runs: list[Overrides], what: str) -> list[Overrides]:
    """Returns the runs unchanged; if one occurs twice, raises a SweepError that names it."""
    equal = collections.defaultdict(list)
    for run in runs:
        equal[identity(run)].append(run)
    if twice := [f"{dict(same[0])} ({len(same)} times)" for same in equal.values() if len(same) > 1]:
        more = f", and {len(twice) - SHOWN} more" if len(twice) > SHOWN else ""
        raise SweepError(
            f"{what}: these runs occur more than once: {'; '.join(twice[:SHOWN])}{more}. Valid: each run once; to "
            'repeat runs, vary "seed".'
        )
    return runs


def _listed(runs: Any, what: str) -> Sequence[Overrides]:
    if isinstance(runs, Sequence) and not isinstance(runs, str) and all(isinstance(run, Mapping) for run in runs):
        return runs
    raise SweepError(f"{what} of {runs!r}. Valid: lists of {{field: value}}; for one field, each(field, values).")


def _merged(parts: Iterable[Overrides], what: str) -> Overrides:
    """The overrides of several parts together; refuses a field that two of them set."""
    merged: Overrides = {}
    for part in parts:
        for field in part:
            if lost := [name for name in merged if name == field or name.startswith(f"{field}.")]:
                how = "twice" if lost[0] == field else f"whole after {lost[0]}, which is a part of it"
                raise SweepError(
                    f"{what}: {field} is set {how}. Valid: each field in one list only, and a part of a field only "
                    "after the whole."
                )
        merged = {**merged, **part}
    return merged
