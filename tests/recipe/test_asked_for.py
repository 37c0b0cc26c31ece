"""What functions of a config may ask for by name: the table of the page on extending, and that each receives it."""

import pathlib
import re

import numpy as np
import pytest

from configs import digits
from diffusion import objectives, timesteps
from diffusion.recipe import kinds, names
from diffusion.recipe.parts import Resolver
from diffusion.training import ema, optimizers

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "extend.md"


def test_the_page_has_a_row_for_each_name_and_its_kinds():
    section = PAGE.read_text().split("## What a function may ask for\n")[1].split("\n## ")[0]
    rows = {}
    for line in re.findall(r"^\| (`.*) \|$", section, re.MULTILINE):
        arguments, _, of = line.split(" | ")
        rows |= dict.fromkeys(re.findall(r"`(\w+)`", arguments), of)
    asked = {
        name: sorted(kind for kind, entry in kinds.KINDS.items() if name in entry.asks) for name in kinds.ASKED_FOR
    }
    assert rows == {name: ", ".join(of) for name, of in asked.items()}
    assert all(asked.values())


@pytest.mark.parametrize("name", kinds.OBJECTIVES_ASK)
def test_an_objective_receives_what_it_asks_for(name, monkeypatch):
    """A function with that one argument: the value is there, and an entry cannot set it."""
    seen = {}
    scope = {"seen": seen, "objectives": objectives, "timesteps": timesteps}
    exec(f"def asks({name}):\n    seen['value'] = {name}\n    return objectives.Objective(lambda *_: None)", scope)
    monkeypatch.setitem(names.OBJECTIVES, "asks", scope["asks"])
    config = digits.get_config("tiny")
    config.objective = {"name": "asks"}
    resolver = Resolver(config)
    assert isinstance(resolver.objective, objectives.Objective)
    expected = {
        "schedule": resolver.schedule,
        "parameterization": resolver.parameterization,
        "generator": resolver.parameterization,
        "student": resolver.parameterization,
        "teacher": None,
        "fake": None,
        "teacher_scale": 1.0,
        "null": 10,
        "total": config.train.steps,
    }
    if name in expected:
        assert seen["value"] == expected[name]
    elif name == "grid":
        np.testing.assert_array_equal(seen["value"], resolver.grid)
    else:
        assert callable(seen["value"])
    config.objective = {"name": "asks", name: 3}
    with pytest.raises(ValueError, match=f"unknown argument of asks '{name}'"):
        _ = Resolver(config).objective


def test_a_moving_average_and_an_optimizer_receive_the_number_of_the_models_updates(monkeypatch):
    """Of 11 steps, a model with a second player is updated at steps 0, 5 and 10."""
    seen = {}
    scope = {"seen": seen, "ema": ema, "optimizers": optimizers}
    average = "def asks(steps):\n    seen['average'] = steps\n    return ema.exponential_moving_average()"
    optimizer = "def asks(steps):\n    seen['optimizer'] = steps\n    return optimizers.adamw(1e-3, steps)"
    for table, code in ((names.AVERAGES, average), (names.OPTIMIZERS, optimizer)):
        exec(code, scope)
        monkeypatch.setitem(table, "asks", scope["asks"])
    config = digits.get_config("tiny")
    config.ema, config.optimizer = {"name": "asks"}, {"name": "asks"}
    config.train.steps = 11
    for updates, expected in ((1, 11), (5, 3)):
        config.second_player.updates = updates
        resolver = Resolver(config)
        assert resolver.average and resolver.optimizer and seen == {"average": expected, "optimizer": expected}
