"""Arguments of a user's own functions: those that are entries of the config, by name or by type, and plain ones."""

import pathlib
import re
import types

import flax.linen as nn
import numpy as np
import pytest

from configs import digits
from diffusion import objectives, samplers, schedules, timesteps
from diffusion.data.sources import sequences
from diffusion.objectives import interpolants
from diffusion.recipe import ConfigError, Recipe, checks, data, kinds, names, resolve, values

POINTS = [{"x": np.float32([i, -i])} for i in range(4)]
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "extend.md"


def sampler_of(entry):
    config = digits.get_config("tiny")
    config.sample.sampler = entry
    return resolve.Resolver(config).sampler


def test_an_argument_of_a_type_is_an_entry_under_any_name(monkeypatch):
    def outer(inner: samplers.Sampler, other: samplers.Sampler | None = None, power: float = 1.0) -> samplers.Sampler:
        assert other is None and power == 2.0
        return inner

    monkeypatch.setitem(names.SAMPLERS, "outer", outer)
    entry = {"name": "outer", "inner": {"name": "ddim", "eta": 0.5}, "other": None, "power": 2.0}
    assert sampler_of(entry).draws == 1  # ddim draws noise where eta > 0
    with pytest.raises(ConfigError, match=r"config.sample.sampler.inner.name: unknown sampler 'dddim'"):
        sampler_of(entry | {"inner": {"name": "dddim"}})


def test_a_value_of_the_run_is_no_entry_of_its_type(monkeypatch):
    """A density receives the run's schedule; an entry cannot set another."""
    seen = []

    def mine(schedule: schedules.NoiseSchedule) -> timesteps.Density:
        seen.append(schedule)
        return timesteps.uniform_density(schedule)

    monkeypatch.setitem(names.DENSITIES, "mine", mine)
    config = digits.get_config("tiny")
    config.objective.density = {"name": "mine"}
    resolver = resolve.Resolver(config)
    assert resolver.objective.density is not None and seen == [resolver.schedule]
    config.objective.density = {"name": "mine", "schedule": {"name": "cosine"}}
    with pytest.raises(ConfigError, match="unknown argument of mine 'schedule'"):
        _ = resolve.Resolver(config).objective


def test_a_wrapper_has_the_entries_of_an_objective(monkeypatch):
    seen = {}

    def mine(objective, density, weighting, coupling=None):
        seen.update(density=density, weighting=weighting)
        return objective

    monkeypatch.setitem(names.WRAPPERS, "mine", mine)
    config = digits.get_config("tiny")
    weighting = {"name": "min_snr", "gamma": 5.0}
    config.objective.wrappers = ({"name": "mine", "density": {"name": "uniform_density"}, "weighting": weighting},)
    assert isinstance(resolve.Resolver(config).objective, objectives.Objective)
    assert isinstance(seen["density"], timesteps.Density)
    assert float(seen["weighting"](schedules.rectified_flow(), 0.5)) == pytest.approx(1.0)  # min(SNR, 5), of SNR 1


def test_an_entry_of_another_argument_is_refused(monkeypatch):
    """Without this the function would receive the dict."""
    monkeypatch.setitem(names.SAMPLERS, "outer", lambda inner=None: samplers.heun())
    with pytest.raises(ConfigError, match=r"config.sample.sampler.inner = .*: this argument of outer is no entry"):
        sampler_of({"name": "outer", "inner": {"name": "heun"}})

    def settings(inner: dict | None = None) -> samplers.Sampler:
        assert inner == {"name": "heun"}
        return samplers.heun()

    monkeypatch.setitem(names.SAMPLERS, "settings", settings)
    assert sampler_of({"name": "settings", "inner": {"name": "heun"}}).draws == 0


def test_the_page_lists_the_types():
    text = re.sub(r"\s+", " ", PAGE.read_text())
    listed = re.search(r"An argument with one of these types .*?: (.*?)\. For", text)
    packages = {"interpolants": interpolants}
    values = [
        getattr(packages.get(module) or __import__(f"diffusion.{module}", fromlist=[name]), name)
        for module, name in re.findall(r"`(\w+)\.(\w+)`", listed[1])
    ]
    assert set(values) == set(kinds.OF_TYPES) and set(kinds.OF_TYPES.values()) <= set(kinds.KINDS)


def test_a_dotted_name_is_no_run_from_python(monkeypatch):
    """`diffusion sample` refused a run whose schedule has the name "mypaper.power": nobody had built it in Python."""
    monkeypatch.setitem(names.SCHEDULES, "mypaper.power", lambda p=2.0: schedules.rectified_flow())
    config = digits.get_config("tiny")
    config.schedule = {"name": "mypaper.power", "p": 3.0}
    assert not values.built_in_python(checks.validate(config).config)
    values.require_names(config, "runs/mine")
    schedule = schedules.rectified_flow()
    made = Recipe(schedule, objectives.flow_matching(timesteps.uniform_density(schedule)), nn.Dense(2), POINTS)
    with pytest.raises(ConfigError, match="built in Python"):
        values.require_names(made.config, "runs/mine")


def test_a_guidance_without_a_scale_is_refused(monkeypatch):
    """The error asked for the scale, and refused it as unknown once it was there."""
    monkeypatch.setitem(names.GUIDANCES, "mine", lambda branches, weight: lambda x, t: branches(x, t)[0])
    for scale in ({}, {"scale": 2.0}):
        config = digits.get_config("tiny")
        config.sample.guidance = {"name": "mine", "weight": 2.0} | scale
        with pytest.raises(ConfigError, match=r"guidance 'mine' has no argument scale.*\(branches, scale, ...\)"):
            checks.validate(config)


@pytest.mark.parametrize(
    "table, field, returned",
    [
        (names.SCHEDULES, "schedule", "NoiseSchedule"),
        (names.PARAMETERIZATIONS, "parameterization", "Parameterization"),
        (names.SAMPLERS, "sample.sampler", "Sampler"),
        (names.DENSITIES, "objective.density", "Density"),
    ],
)
def test_what_a_function_returns_is_of_its_kind(table, field, returned, monkeypatch):
    """It was an AttributeError of whatever read it first."""
    monkeypatch.setitem(table, "mine", lambda: 3)
    config = digits.get_config("tiny")
    values.put(config, field, {"name": "mine"})
    with pytest.raises(ConfigError, match=rf"config.{field}.name = 'mine' returns a int. Valid: .* a .*{returned}"):
        checks.validate(config)


def test_a_sampler_of_ones_own_type_is_one():
    """Its fields are what a run reads."""
    fields = dict(samplers.heun()._asdict())
    kinds.check_returned("sampler", types.SimpleNamespace(**fields), "config.sample.sampler", "mine")
    del fields["step"]
    with pytest.raises(ConfigError, match="returns a SimpleNamespace"):
        kinds.check_returned("sampler", types.SimpleNamespace(**fields), "config.sample.sampler", "mine")


def test_a_grid_that_rises_is_refused(monkeypatch):
    """Its samples would begin as noise at the time of the data."""
    monkeypatch.setitem(names.GRIDS, "mine", lambda schedule, steps: np.linspace(0, 1, steps + 1))
    config = digits.get_config("tiny")
    config.sample.grid = {"name": "mine"}
    with pytest.raises(ConfigError, match=r"sample.grid = .*the plan leads from t = 0 up to 1. Valid: times that fall"):
        checks.validate(config)


def test_a_source_that_returns_records_is_named(monkeypatch):
    """A list has no description of its records, such as how many classes there are."""
    monkeypatch.setitem(names.SOURCES, "mine", lambda split: POINTS)
    config = digits.get_config("tiny")
    config.data.source = {"name": "mine"}
    with pytest.raises(ConfigError, match=r"config.data.source.name = 'mine' returns a list. Valid: .*Records\("):
        data.source(config, "train")
    monkeypatch.setitem(names.SOURCES, "mine", lambda split: sequences.Records(POINTS, split=split))
    assert data.source(config, "train").spec.shape == (2,)
