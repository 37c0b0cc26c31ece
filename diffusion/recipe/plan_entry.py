"""The sampling times from their entries: the grid, its steps, and a plan that depends on the trained network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion import timesteps
from diffusion.recipe import kinds, names
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.entries import takes
from diffusion.recipe.values import plain
from diffusion.timesteps import Plan


class ChosenPlan(NamedTuple):
    """A plan whose times are chosen for the trained network.

    Attributes:
        among: the plan of the times to choose from.
        choose: (denoise, x `[N + 1, B, ...]`, trajectories of the denoiser along that plan) -> the plan.
    """

    among: Plan
    choose: Callable[[Any, jax.Array], Plan]


def plan(parts: Any) -> Plan:
    """The steps of sampling: `config.sample.plan` of the grid's times, moved by `sample.shift`.

    Where the grid is one that the trained network decides, equal steps stand for it; see `chosen_plan`.
    """
    return _planned(parts, parts.grid)


def grid(parts: Any) -> np.ndarray:
    """`[steps + 1]` times of sampling, before `config.sample.plan` makes its steps of them."""
    steps = parts.config["sample"]["steps"]
    if parts.chosen_plan is not None:
        return timesteps.uniform(parts.schedule, steps=steps)
    return _shifted(parts, parts.field("grid", "sample.grid", steps=steps))


def chosen_plan(parts: Any) -> ChosenPlan | None:
    """How the times are chosen where the function of `config.sample.grid` reads a denoiser; otherwise None."""
    if "plan" in parts.given:
        return None
    entry = parts.config["sample"]["grid"]
    if not takes(names.GRIDS.get(entry.get("name"), lambda: None), "denoise"):
        return None
    path = "config.sample.grid"
    fine = {"grid": lambda spec, path: _shifted(parts, parts.build("grid", spec, path))}
    known = {"schedule": parts.schedule, "steps": parts.config["sample"]["steps"]}
    choose = lambda denoise, x: _planned(parts, kinds.build("grid", entry, path, fine, denoise=denoise, x=x, **known))
    among = plain(entry, path).get("grid", {"name": "uniform", "steps": 64})
    return ChosenPlan(timesteps.plan(fine["grid"](among, f"{path}.grid")), choose)


def _shifted(parts: Any, times: Any) -> np.ndarray:
    try:
        return timesteps.shift(parts.schedule, times, parts.config["sample"]["shift"])
    except ValueError as error:
        raise ConfigError(f"config.sample (grid, steps, shift): {error}") from error


def _planned(parts: Any, times: Any) -> Plan:
    path = "config.sample.plan"
    entry = parts.config["sample"]["plan"]
    if plain(entry) == {"name": "plan"}:  # what can be wrong is the grid
        path = "config.sample (grid, steps, shift)"
    return kinds.build("plan", entry, path, grid=times, schedule=parts.schedule)
