"""Arguments of a user's own functions: those that are entries of the config, by name or by type, and plain ones."""

import functools
import importlib.util
import inspect
import pathlib
import re
import types
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits, digits_improved_mean_flow
from diffusion import discrete, objectives, samplers, schedules, timesteps
from diffusion.data.sources import sequences
from diffusion.discrete import steps
from diffusion.recipe import ConfigError, Recipe, checks, data, fits, kinds, names, steering_drivers, values
from diffusion.recipe.parts import Resolver

POINTS = [{"x": np.float32([i, -i])} for i in range(4)]
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "extend.md"


def sampler_of(entry):
    config = digits.get_config("tiny")
    config.sample.sampler = entry
    return Resolver(config).sampler


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
    resolver = Resolver(config)
    assert resolver.objective.density is not None and seen == [resolver.schedule]
    config.objective.density = {"name": "mine", "schedule": {"name": "cosine"}}
    with pytest.raises(ConfigError, match="unknown argument of mine 'schedule'"):
        _ = Resolver(config).objective


def test_a_wrapper_has_the_entries_of_an_objective(monkeypatch):
    seen = {}

    def mine(objective, density, weighting, coupling=None):
        seen.update(density=density, weighting=weighting)
        return objective

    monkeypatch.setitem(names.WRAPPERS, "mine", mine)
    config = digits.get_config("tiny")
    weighting = {"name": "min_snr", "gamma": 5.0}
    config.objective.wrappers = ({"name": "mine", "density": {"name": "uniform_density"}, "weighting": weighting},)
    assert isinstance(Resolver(config).objective, objectives.Objective)
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
    packages = ("", "adapters.", "data.", "guidance.", "manifolds.", "objectives.", "sampling.", "training.")
    module_of = lambda module: next(
        f"diffusion.{package}{module}"
        for package in packages
        if importlib.util.find_spec(f"diffusion.{package}{module}")
    )
    values = [
        getattr(importlib.import_module(module_of(module)), name)
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


def test_the_config_of_a_network_is_that_of_no_run():
    """`diffusion sample --workdir=FOLDER` of an exported network ended in a traceback."""
    with pytest.raises(ConfigError, match=r"--workdir=exported holds no run: its config\.json.* no section 'model'"):
        values.require_sections(ConfigDict({"_class_name": "DiT", "width": 32}), "exported")


def test_a_guidance_without_a_scale_is_refused(monkeypatch):
    """The error asked for the scale, and refused it as unknown once it was there."""
    monkeypatch.setitem(names.GUIDANCES, "mine", lambda branches, weight: lambda x, t: branches(x, t)[0])
    for scale in ({}, {"scale": 2.0}):
        config = digits.get_config("tiny")
        config.sample.guidance = {"name": "mine", "weight": 2.0} | scale
        with pytest.raises(ConfigError, match=r"guidance 'mine' has no argument scale.*\(branches, scale, ...\)"):
            checks.validate(config)


@pytest.mark.parametrize(
    "table, field, entry, words",
    [
        (names.SCHEDULES, "schedule", {}, "a NoiseSchedule"),
        (names.PARAMETERIZATIONS, "parameterization", {}, "a Parameterization"),
        (names.CLOCKS, "parameterization.clock", {}, r"a function \(schedule, t\)"),
        (names.SAMPLERS, "sample.sampler", {}, "a SymbolSampler or a Sampler"),
        (names.GRIDS, "sample.grid", {}, "an array of times"),
        (names.PLANS, "sample.plan", {}, "a Plan"),
        (names.CACHES, "sample.cache", {}, "a Cache"),
        (names.GUIDANCES, "sample.guidance", {"scale": 2.0}, r"a function \(x_t, t\)"),
        (names.DENSITIES, "objective.density", {}, "a Density"),
        (names.OPTIMIZERS, "optimizer", {}, "an Optimizer"),
        (names.AVERAGES, "ema", {}, "an ExponentialMovingAverage"),
        (names.AUTOENCODERS, "autoencoder.network", {}, "a Linen module"),
    ],
)
def test_what_a_function_returns_is_of_its_kind(table, field, entry, words, monkeypatch):
    """It was an AttributeError of whatever read it first, in training or at the end of it."""
    monkeypatch.setitem(table, "mine", lambda branches=None, scale=1.0, grid=None: None)
    config = digits.get_config("tiny")
    values.put(config, field, {"name": "mine"} | entry)
    with pytest.raises(ConfigError, match=rf"config.{field}.name = 'mine' returns a NoneType. Valid: .* {words}"):
        checks.validate(config)


@pytest.mark.parametrize("table, field", [(names.AUGMENTATIONS, "data.augment"), (names.GUIDES, "sample.guides")])
def test_what_a_function_in_a_list_returns_is_of_its_kind(table, field, monkeypatch):
    monkeypatch.setitem(table, "mine", lambda denoise=None: 3.0)
    config = digits.get_config("tiny")
    values.put(config, field, ({"name": "mine"},))
    with pytest.raises(ConfigError, match=rf"config.{field}\[0\].name = 'mine' returns a float. Valid: .* a function"):
        checks.validate(config)


@pytest.mark.extended
def test_every_function_of_the_library_returns_what_its_kind_says():
    """Functions without required arguments are called; runs of other tests call the others."""
    called = set()
    for kind, spec in kinds.KINDS.items():
        for function in spec.table.values():
            parameters = inspect.signature(function).parameters.values()
            if spec.returns and all(parameter.default is not parameter.empty for parameter in parameters):
                spec.returns.check(function(), "config", kind)
                called.add(kind)
    assert len(called) > 20


class Counted(NamedTuple):
    evaluations: jax.Array
    failures: jax.Array


def test_a_driver_returns_x_and_its_numbers(monkeypatch):
    """Other results failed once the samples were made, and other numbers were printed as those of particles."""
    config = digits.get_config("tiny")
    config.sample.driver = {"name": "mine"}
    for driver in (
        lambda sampler, denoise, schedule, x, plan, keys: x[..., 0],
        lambda number=2: lambda x, **arguments: (x.mean(0), Counted(jnp.zeros([]), jnp.zeros([]))),
    ):
        monkeypatch.setitem(names.DRIVERS, "mine", driver)
        with pytest.raises(
            ConfigError, match=r"sample.driver = .*the driver returns an array of the shape \(.*Valid: x"
        ):
            checks.validate(config)
    steered = lambda number=2: lambda x, **arguments: (x, Counted(jnp.zeros([]), jnp.zeros([])))
    monkeypatch.setitem(names.DRIVERS, "mine", steered)
    with pytest.raises(
        ConfigError, match=r"sample.driver = .*returns x with a Counted. Valid: a Weighed, or .*numbering"
    ):
        checks.validate(config)
    monkeypatch.setitem(names.DRIVERS, "mine", steering_drivers.numbering(Counted)(steered))
    checks.validate(config)


def test_a_sampler_of_ones_own_type_is_one():
    """Its fields are what a run reads."""
    fields = dict(samplers.heun()._asdict())
    kinds.KINDS["sampler"].returns.check(types.SimpleNamespace(**fields), "config.sample.sampler", "mine")
    del fields["step"]
    with pytest.raises(ConfigError, match="returns a SimpleNamespace"):
        kinds.KINDS["sampler"].returns.check(types.SimpleNamespace(**fields), "config.sample.sampler", "mine")


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


@pytest.mark.extended
def test_the_law_of_corrected_is_an_entry(monkeypatch):
    """Its samples at one key are those of the sampler that Python builds with that law."""
    process = discrete.uniform(discrete.linear(), 5)
    predict = lambda x, t: jnp.broadcast_to(jnp.log(jnp.arange(1.0, 6) / 15), (*x.shape, 5))
    x, plan = jnp.zeros((64, 2), jnp.int32), timesteps.plan(np.float32([0.9, 0.4, 0.0]))
    draw = lambda sampler: discrete.sample(sampler, predict, process, x, plan, jax.random.split(jax.random.key(0), 64))
    law = lambda predict, process, x, t, s: jnp.broadcast_to(jnp.eye(5)[3], (*x.shape, 5))
    monkeypatch.setitem(names.LAWS, "mine", lambda: law)
    named = {name: draw(sampler_of({"name": "corrected", "law": {"name": name}})) for name in ("euler", "mine")}
    np.testing.assert_array_equal(named["euler"], draw(discrete.corrected(law=steps.euler_law)))
    assert (named["mine"] == 3).all() and not np.array_equal(named["euler"], draw(sampler_of({"name": "corrected"})))


@pytest.mark.parametrize(
    "table, field, function, words",
    [
        (
            names.GUIDANCES,
            "sample.guidance",
            lambda branches, scale: lambda x, t: branches(x, t)[0].x0,
            r"must be a Prediction\(x0, eps\)",
        ),
        (names.GUIDES, "sample.guides", lambda denoise: lambda x: denoise(x, 0), r"called as denoise\(x_t, t\)"),
        (
            names.SAMPLERS,
            "sample.sampler",
            lambda: samplers.euler()._replace(step=lambda state, denoise, schedule, plan, i, noise: state.x),
            "the step of a sampler must return a state of the same form as init",
        ),
    ],
)
def test_what_cannot_sample_is_refused_before_the_training(table, field, function, words, monkeypatch):
    """The error came after the last step of the training."""
    monkeypatch.setitem(table, "mine", function)
    entry = {"name": "mine"} | ({"scale": 2.0} if field == "sample.guidance" else {})
    config = digits.get_config("tiny")
    fits.try_sampling(checks.on_its_data(checks.validate(config)))
    values.put(config, field, (entry,) if field == "sample.guides" else entry)
    with pytest.raises(ConfigError, match=rf"config\.{field}.*a trial of the sampling failed: .*{words}"):
        fits.try_sampling(checks.on_its_data(checks.validate(config)))


def test_settings_of_an_objective_are_no_entry_of_their_argument():
    """The argument `guidance` of improved_mean_flow holds settings, not a function of branches."""
    config = digits_improved_mean_flow.get_config("tiny")
    assert checks.validate(config).objective.condition.strength is not None


@pytest.mark.parametrize("field", ["objective", "schedule", "sample.sampler", "sample.driver", "optimizer"])
def test_an_entry_whose_name_is_an_entry_is_refused(field):
    config = digits.get_config("tiny")
    with config.unlocked():
        values.put(config, field, {"name": {"name": "cosine"}})
    for build in (Recipe.from_config, checks.validate):
        with pytest.raises(ConfigError, match=rf"config\.{field}\.name = {{'name': 'cosine'}}.* Valid: text"):
            build(config)


def test_data_whose_name_is_an_entry_are_refused():
    with pytest.raises(ConfigError, match=r"config\.data\.source\.name = {'name': 'arrays'} is a mapping"):
        data.named('{"name": {"name": "arrays"}}@train')


def test_functions_without_a_name_of_their_own_need_one():
    for function in (functools.partial(samplers.ddim, eta=1.0), lambda: samplers.ddim()):
        with pytest.raises(ConfigError, match=r"has no name of its own\. Valid: a name, set by the argument name"):
            names.add({}, function)
        table = {}
        names.add(table, function, "mine")
        assert table == {"mine": function}


def test_an_own_function_may_have_arguments_of_any_number(monkeypatch):
    """A config cannot name them; a function that needs none works, and an argument is refused by its name."""
    monkeypatch.setitem(names.SAMPLERS, "open", lambda *more, eta=0.0, **others: samplers.ddim(eta))
    assert sampler_of({"name": "open", "eta": 0.5}).draws == 1 and sampler_of({"name": "open"}).draws == 0
    with pytest.raises(ConfigError, match=r"unknown argument of open 'step'.* Valid: eta"):
        sampler_of({"name": "open", "step": 1})
