"""From noise to data by the names of a config: plans, drivers, samplers of frames, the grid that a network decides."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from diffusion import editing, parameterizations, samplers, schedules, timesteps
from diffusion.data.sources import DataSpec
from diffusion.experiments import train
from diffusion.experiments.sampling import generate, run_denoiser, run_samples
from diffusion.recipe import ConfigError, Recipe, checks, names, recipes
from diffusion.recipe.parts import Resolver

LINE = schedules.rectified_flow()
SHAPE = (8, 8, 1)
DIGITS = DataSpec("digits", "train", SHAPE, 10, 100)
GRID = timesteps.uniform(LINE, steps=4)
RESTARTS = ((2, 1, 0.3, 1.0),)


def config_of(**fields):
    config = digits.get_config("tiny")
    config.sample.guidance.scale = 1.0
    config.sample.sampler = {"name": "euler"}
    config.sample.number = config.sample.batch_size = 4
    for name, value in fields.items():
        config.sample[name] = value
    return config


def test_times_that_no_plan_can_have_are_blamed_on_the_grid(monkeypatch):
    monkeypatch.setitem(names.GRIDS, "alone", lambda steps: np.ones(1, np.float32))
    with pytest.raises(ConfigError, match=r"config\.sample \(grid, steps, shift\): "):
        checks.validate(config_of(grid={"name": "alone"}))


class Gaussian(nn.Module):
    """The exact velocity of data N(0.5, 0.1^2), of a time for each example or for each of its frames."""

    num_classes: int = 0
    mean: float = 0.5
    std: float = 0.1

    @nn.compact
    def __call__(self, x, t, condition=None):
        self.param("unused", nn.initializers.zeros, (1,))
        t = t.reshape(*t.shape, *[1] * (x.ndim - t.ndim))
        share = ((1 - t) * self.std**2 * (x - (1 - t) * self.mean)) / ((1 - t) ** 2 * self.std**2 + t**2)
        x0 = self.mean + share
        eps = (t * (x - (1 - t) * self.mean)) / ((1 - t) ** 2 * self.std**2 + t**2)
        return eps - x0


@pytest.fixture(scope="module", autouse=True)
def gaussian():
    names.add(names.MODELS, Gaussian, "gaussian")
    yield
    del names.MODELS["gaussian"]


def exact(**fields):
    config = config_of(**fields)
    config.model = {"name": "gaussian"}
    config.parameterization = {"name": "velocity", "clock": {"name": "time"}}
    config.objective.wrappers = ()
    return config


def samples(config, shape=SHAPE):
    """float `[4, ...]` samples of the exact network, before they become bytes, and the recipe."""
    recipe = checks.validate(config).at(shape)
    recipe = generate.trained(recipe, {"params": {"unused": jnp.zeros(1)}})
    first, rest = generate.keys(generate.seeds(config, 4))
    x = samplers.prior(recipe.schedule, first, shape)
    denoise = run_denoiser.build_for_sampler(recipe)({"params": {"unused": jnp.zeros(1)}}, jnp.zeros(4, jnp.int32))
    return recipe.sampling.driver(
        sampler=recipe.sampling.sampler, denoise=denoise, schedule=LINE, x=x, plan=recipe.sampling.plan, keys=rest
    ), recipe


@pytest.mark.parametrize(
    "entry, expected",
    [
        ({"name": "plan"}, lambda: timesteps.plan(GRID)),
        ({"name": "staggered", "frames": 8, "delay": 1}, lambda: timesteps.staggered(GRID, 8, 1)),
        ({"name": "restart_plan", "restarts": RESTARTS}, lambda: samplers.restart_plan(LINE, GRID, RESTARTS)),
        ({"name": "repaint", "jump": 2, "resamplings": 3}, lambda: editing.repaint(GRID, 2, 3)),
    ],
)
def test_a_plan_by_its_name(entry, expected):
    made = Resolver(config_of(plan=entry)).plan
    for part, other in zip(made, expected(), strict=True):
        np.testing.assert_array_equal(part, other)


def test_steps_that_add_noise_cost_no_evaluation():
    recipe = Recipe.from_config(config_of(plan={"name": "restart_plan", "restarts": RESTARTS}), SHAPE)
    assert generate.generator(recipe).nfe == 4 + 2
    assert len(recipe.sampling.plan.grid) == 4 + 2 + 1 + 1


@pytest.mark.extended
def test_drivers_reach_the_same_end():
    """Picard's sweeps end at the steps of `sample`; the adaptive driver at the flow of a Gaussian, x -> 0.5 + 0.1 x."""
    by_steps, _ = samples(exact())
    in_parallel, recipe = samples(exact(driver={"name": "picard", "window": 4, "tolerance": 0.0}))
    np.testing.assert_allclose(in_parallel, by_steps, atol=1e-5)
    make = generate.generator(recipe)
    assert not recipe.sampling.follows_plan and make.nfe is make.trajectory is None
    by_error, recipe = samples(exact(driver={"name": "adaptive", "rtol": 1e-5, "atol": 1e-5, "t_end": 1e-4}))
    first, _ = generate.keys(generate.seeds(recipe.config, 4))
    np.testing.assert_allclose(by_error, 0.5 + 0.1 * samplers.prior(LINE, first, SHAPE), atol=1e-3)
    assert np.abs(by_steps - by_error).max() > 1e-2  # four steps of Euler's method are not exact


@pytest.mark.extended
def test_frames_have_times_of_their_own():
    sampler = {"name": "per_frame", "sampler": {"name": "ddim"}}
    config = exact(sampler=sampler, plan={"name": "staggered", "frames": 8, "delay": 1})
    staggered, _ = samples(config)
    together, _ = samples(exact(sampler={"name": "ddim"}))
    np.testing.assert_allclose(staggered, together, atol=1e-5)  # frames that do not depend on each other
    config.objective.density = {"name": "per_frame", "density": {"name": "uniform_density"}, "frames": 8}
    config.objective.name = "denoising"
    config.objective.weighting = {"name": "constant"}
    recipe = checks.validate(config).at(SHAPE)
    t, _ = recipe.objective.density.sample((), jax.random.split(jax.random.key(0), 3), jnp.arange(3))
    assert t.shape == (3, 8)
    given = {"name": "given_frames", "density": config.objective.density.to_dict(), "patterns": ("1......1",)}
    config.objective.density = given
    density = checks.validate(config).at(SHAPE).objective.density
    t, importance = density.sample((), jax.random.split(jax.random.key(0), 3), jnp.arange(3))
    assert (t[:, [0, 7]] < 1e-6).all() and not importance[:, [0, 7]].any() and importance[:, 1:7].all()


@pytest.mark.extended
def test_the_grid_that_a_network_decides():
    config = exact(
        grid={"name": "optimal", "grid": {"name": "uniform", "steps": 16}}, sampler={"name": "ddim"}, steps=3
    )
    x, recipe = samples(config)
    fine = timesteps.uniform(LINE, steps=16)
    assert recipe.sampling.plan.grid.shape == (4,) and set(recipe.sampling.plan.grid) <= set(fine)
    before = checks.validate(config).at(SHAPE)
    assert len(before.sampling.plan.t) == 3 and before.sampling.chosen_plan is not None
    config.sample.grid = {"name": "uniform"}
    plain, _ = samples(config)
    first, _ = generate.keys(generate.seeds(config, 4))
    exactly = 0.5 + 0.1 * samplers.prior(LINE, first, SHAPE)
    assert np.abs(x - exactly).mean() < np.abs(plain - exactly).mean() / 2


def test_a_cache_waits_until_the_grid_is_chosen(monkeypatch):
    """Its errors would move the grid; afterwards the samples are made with it."""
    plan = timesteps.plan(timesteps.uniform(LINE, steps=1))
    recipe = checks.validate(exact()).at(SHAPE).with_parts(cache="a cache", chosen_plan=(plan, lambda *_: plan))
    caches = []

    def denoiser(recipe):
        caches.append(recipe.sampling.cache)
        return lambda params, condition: lambda x, t: parameterizations.Prediction(x, x)

    monkeypatch.setattr(run_denoiser, "denoiser", denoiser)
    trained = generate.trained(recipe, {})
    assert caches == [None] and trained.sampling.cache == "a cache"
    assert trained.sampling.plan is plan and trained.sampling.chosen_plan is None


REFUSED = {
    "unknown driver": ({"driver": {"name": "picar"}}, r"config\.sample\.driver\.name.*'picard'"),
    "window": ({"driver": {"name": "picard", "window": 9}}, r"config\.sample\.driver.*window = 9"),
    "noise in parallel": (
        {"driver": {"name": "picard"}, "plan": {"name": "restart_plan", "restarts": RESTARTS}},
        r"config\.sample\.driver:.*which only `sample",
    ),
    "a flow map by error": (
        {"driver": {"name": "adaptive"}, "sampler": {"name": "flow_map"}},
        r"config\.sample\.sampler = \{'name': 'flow_map'\}: the sampler takes a flow map",
    ),
    "frames of none": ({"plan": {"name": "staggered", "frames": 8, "delay": 1}}, r"config\.sample\.plan.*per_frame"),
    "no frames": (
        {"sampler": {"name": "per_frame", "sampler": {"name": "ddim"}}},
        r"config\.sample\.plan.*as staggered makes it",
    ),
    "frames of a history": (
        {"sampler": {"name": "per_frame", "sampler": {"name": "heun"}}},
        r"config\.sample\.sampler: per_frame takes samplers that evaluate the network once",
    ),
    "restart of three numbers": (
        {"plan": {"name": "restart_plan", "restarts": ((2, 1, 0.3, 1.0), (2, 1, 1.0))}},
        r"config\.sample\.plan\.restarts\[1\] = \(2, 1, 1\.0\)\. Valid: \(steps, repeats, sigma_min, sigma_max\)",
    ),
    "restart of a word": (
        {"plan": {"name": "restart_plan", "restarts": ((2, 1, 0.3, "high"),)}},
        r"config\.sample\.plan\.restarts\[0\]\.sigma_max = 'high' is text\. Valid: a number",
    ),
    "restart": (
        {"plan": {"name": "restart_plan", "restarts": ((2, 1, 1.0, 0.3),)}},
        r"config\.sample\.plan: restart_plan.*sigma_min < sigma_max",
    ),
    "no fine grid": ({"grid": {"name": "optimal", "grid": {"name": "uniform"}}}, r"config\.sample\.grid\.grid.*steps"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    fields, words = REFUSED[case]
    with pytest.raises(ConfigError, match=words):
        checks.validate(config_of(**fields))


def test_as_many_frames_as_the_examples_have():
    sampler = {"name": "per_frame", "sampler": {"name": "ddim"}}
    config = config_of(sampler=sampler, plan={"name": "staggered", "frames": 5, "delay": 1})
    config.data.shape = SHAPE
    with pytest.raises(ConfigError, match="the plan is for 5 frames, but the examples have 8"):
        checks.validate(config)


def test_frames_of_a_network_that_reads_a_condition_of_the_data():
    """A config states the shape of the examples, but only the data say that their condition has a vector."""
    config = recipes.load("video/pairs:tiny")
    config.data.shape = (16, 48, 48, 3)
    config.sample.sampler = {"name": "per_frame", "sampler": {"name": "ddim"}}
    config.sample.plan = {"name": "staggered", "frames": 16, "delay": 4, "chunk": 8}
    recipe = checks.on_its_data(checks.validate(config))
    assert recipe.examples.null["vector"].shape == (56,) and recipe.sampling.plan.t.shape[1:] == (16,)


def test_a_network_of_one_time_samples_no_frames():
    sampler = {"name": "per_frame", "sampler": {"name": "ddim"}}
    config = config_of(sampler=sampler, plan={"name": "staggered", "frames": 8, "delay": 1})
    recipe = checks.validate(config)
    for checked in (checks.on_its_data, lambda recipe: checks.with_data(recipe, DIGITS)):
        with pytest.raises(ConfigError, match=r"config\.model\.name = 'dit'.*DiT takes one time for each example"):
            checked(recipe)


@pytest.mark.slow
def test_commands_sample_so(tmp_path, capsys):
    config = config_of(grid={"name": "optimal", "grid": {"name": "uniform", "steps": 8}})
    config.train.steps = config.checkpoint.every = config.evaluate.every = 2
    config.evaluate.features = ("pixels",)
    assert train.run(config, tmp_path / "run") == 0
    for driver in ({"name": "picard"}, {"name": "adaptive", "t_end": 1e-3}):
        config.sample.driver = driver
        (tmp_path / "run" / "trajectory.png").write_bytes(b"of the samples before")
        made = run_samples.sample(checks.on_its_data(checks.validate(config)), tmp_path / "run")
        assert made.shape == (4, *SHAPE) and np.ptp(made) > 0
        assert f"no trajectory.png: the driver '{driver['name']}' does not show its steps" in capsys.readouterr().out
        assert not (tmp_path / "run" / "trajectory.png").exists() and (tmp_path / "run" / "samples.png").exists()
