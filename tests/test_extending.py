"""The examples of docs/extend.md: each runs as it stands, by the name that it has there, and keeps what it promises."""

import json
import os
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from ml_collections import ConfigDict

from configs import digits
from diffusion import objectives, parameterizations, schedules, timesteps
from diffusion.data import catalog
from diffusion.experiments.evaluation import model_metrics
from diffusion.experiments.run import examples
from diffusion.experiments.sweeps import commands as sweep_commands
from diffusion.metrics import features
from diffusion.recipe import ConfigError, Recipe, checks, extensions, names, recipes
from diffusion.recipe.parts import Resolver
from diffusion.recipe.values import plain
from tests import commands, conformance
from tests.guidance import test_guidance_conformance
from tests.models import backbones, test_conformance as backbone_suite
from tests.samplers import test_sampler_orders
from tests.schedules import schedule_cases, test_schedules as schedule_suite

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "extend.md").read_text()
KINDS = (
    "schedule",
    "parameterization",
    "weighting",
    "objective",
    "wrapper of objectives",
    "coupling",
    "sampler",
    "manifold",
    "process of symbols",
    "guidance",
    "moving average",
    "backbone",
    "dataset",
    "metric",
)
TABLES = (
    names.SCHEDULES, names.PARAMETERIZATIONS, names.WEIGHTINGS, names.OBJECTIVES, names.WRAPPERS, names.COUPLINGS,
    names.SAMPLERS, names.MANIFOLDS, names.PROCESSES, names.GUIDANCES, names.AVERAGES, names.MODELS, names.FEATURES,
    catalog.BUNDLED, model_metrics.METRICS,
)  # fmt: skip


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    """All examples of the page, as one file of a user."""
    path = tmp_path_factory.mktemp("extend") / "my_ideas.py"
    path.write_text("\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)))
    return path


@pytest.fixture(scope="session")
def extended(file):
    """The tables with the examples, whose file a process can run once: TFDS registers its dataset for good."""
    before = [dict(table) for table in TABLES]
    try:
        extensions.extend(str(file))
        return [dict(table) for table in TABLES]
    finally:
        _fill(before)


@pytest.fixture(scope="module", autouse=True)
def ideas(extended):
    """The module of that file; afterwards the tables are again what they were.

    xdist may run this file in two parts with others between them, so that this begins twice in a process.
    """
    before = [dict(table) for table in TABLES]
    _fill(extended)
    yield sys.modules["extension_my_ideas"]
    _fill(before)


def _fill(contents):
    for table, content in zip(TABLES, contents):
        table.clear()
        table.update(content)


def changed(**entries):
    """The tiny digits recipe with other entries."""
    return ConfigDict(plain(digits.get_config("tiny")) | entries)


@pytest.mark.extended
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_paragraph_and_an_example_of_about_ten_lines(kind):
    section = re.search(rf"^## An? {kind}\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)[1]
    assert len(section.split("```")[0].split()) > 30
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    assert 7 <= sum(bool(line.strip()) for line in code.splitlines()) <= 20


def test_the_manifold_is_a_sphere_of_its_radius(ideas):
    """Lengths of logs are distances, the basis is orthonormal, and the wrapped density has the mass 1."""
    globe, radius = ideas.globe(3.0), 3.0
    x, y = globe.uniform(jax.random.key(0), (2, 2000))

    @jax.jit
    def measured(x, y):
        v, basis = globe.log(x, y), globe.basis(x)
        gram = globe.inner(x[:, None, None], basis[:, :, None], basis[:, None])
        return globe.distance(x, y), jnp.sqrt(globe.inner(x, v, v)), gram, globe.wrapped_log_density(x[:1], 2.5, y)

    distance, length, gram, log_density = measured(x, y)
    np.testing.assert_allclose(distance, radius * np.arccos(np.clip(np.sum(x * y, -1), -1, 1)), atol=2e-3)
    np.testing.assert_allclose(length, distance, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(2), gram.shape), atol=1e-5)
    density = np.exp(log_density)
    assert density.mean() * globe.volume == pytest.approx(1, abs=4 * float(density.std()) * globe.volume / 2000**0.5)
    assert globe.volume == pytest.approx(4 * np.pi * 9)


def test_the_process_of_symbols_is_the_exponential_of_its_rates_and_a_run_has_it(ideas):
    """Two groups of two: jumps at the rate 1 within a group (4 / 4), and at 1 / 4 to each symbol of the other."""
    groups = (0, 1, 1, 0)
    process = {"name": "within_groups", "keeping": {"name": "linear"}, "groups": groups}
    config = recipes.load("symbols/prose:tiny")
    density = {"name": "uniform_density"}
    config.objective = {"name": "score_entropy", "process": process, "density": density, "wrappers": ()}
    made = checks.validate(config).objective.reads.process
    rates = np.where(np.equal.outer(groups, groups), 1.0, 0.25) * (1 - np.eye(4))
    exact = scipy.linalg.expm(-np.log1p(-0.6) * (rates - np.diag(rates.sum(1))))
    np.testing.assert_allclose(made.marginal(np.arange(4), 0.6), exact, atol=1e-6)
    config.objective.process = process | {"inside": 0.0}
    with pytest.raises(ConfigError, match=r"within_groups: inside = 0\.0 must be positive"):
        checks.validate(config)


def test_the_moving_average_stands_still_after_its_share(ideas):
    average = Resolver(changed(ema={"name": "frozen_after", "share": 0.5}, train={"steps": 10})).average
    plain_one = average.init(jnp.zeros(1))
    before, after = (average.update(plain_one, jnp.ones(1), step) for step in (4, 5))
    np.testing.assert_allclose(before, 1 - 5 / 14, rtol=1e-6)  # of the decay (1 + 4) / (10 + 4)
    np.testing.assert_array_equal(after, 0.0)


def test_the_wrapper_bounds_the_loss_of_each_example(ideas):
    flow = {"name": "flow_matching", "density": {"name": "uniform_density"}}
    batch = {"x": jnp.linspace(0, 9, 4)[:, None, None, None] * jnp.ones((4, 2, 2, 1)), "condition": jnp.zeros(4, int)}
    inputs = schedules.rectified_flow(), jax.random.split(jax.random.key(0), 4), batch, 0
    losses = []
    for wrappers in ((), ({"name": "clipped", "most": 2.5},)):
        objective = Resolver(changed(objective=flow | {"wrappers": wrappers})).objective
        losses.append(objective({"model": lambda x, clock, condition: 0 * x}, *inputs)[0])
    assert (losses[0] > 2.5).any() and (losses[0] < 2.5).any()
    np.testing.assert_array_equal(losses[1], np.minimum(losses[0], 2.5))


@pytest.fixture
def power(ideas, monkeypatch):
    """The schedule beside its definition, as the suite takes it."""
    case = schedule_cases.Case(ideas.power, lambda t: ((1 - t**2) ** 2, t**4), 0.0, (0.0, 1.0))
    monkeypatch.setitem(schedule_suite.SCHEDULES, "power", case)
    return {"power": Resolver(changed(schedule={"name": "power", "p": 2.0})).schedule}


def test_the_schedule_is_its_definition(power):
    schedule_suite.test_coefficients_equal_the_definition(power, "power", np.float32, 2e-5)


@pytest.mark.slow
def test_the_schedule_passes_the_suite_of_schedules(power):
    schedule_suite.test_float32_is_finite_near_both_ends(power, "power")
    schedule_suite.test_low_precision_times_are_promoted(power, "power")
    schedule_suite.test_any_shape_of_t(power, "power")
    with jax.enable_x64(True):
        for test in (
            schedule_suite.test_ends,
            schedule_suite.test_drift_and_diffusion_are_the_derivatives,
            schedule_suite.test_norm_is_one_along_the_process,
        ):
            test(power, "power", None)
        schedule_suite.test_inverse_returns_t(power, "power", np.float64, 1e-9)


@pytest.mark.parametrize("schedule", [schedules.rectified_flow(), schedules.cosine(), schedules.edm()])
def test_the_parameterization_turns_its_target_into_the_pair(ideas, schedule):
    """At both ends too: neither alpha nor sigma alone is a divisor."""
    parameterization = ideas.difference()
    t = jnp.linspace(0, schedule.t_max, 5)
    x0, eps, output = jax.random.normal(jax.random.key(0), (3, 5, 2))
    alpha, sigma = (level(t)[:, None] for level in (schedule.alpha, schedule.sigma))
    x_t = alpha * x0 + sigma * eps
    target = parameterization.target(schedule, t, x0, eps)
    pair = parameterization.to_prediction(schedule, t, x_t, target)
    np.testing.assert_allclose(pair.x0, x0, atol=1e-5 * float(1 + sigma.max()))
    np.testing.assert_allclose(pair.eps, eps, atol=1e-5 * float(1 + sigma.max()))
    other = parameterization.to_prediction(schedule, t, x_t, output)
    np.testing.assert_allclose(alpha * other.x0 + sigma * other.eps, x_t, rtol=1e-4, atol=1e-4)


def test_a_run_has_the_parameterization(ideas):
    config = changed(parameterization={"name": "difference", "clock": {"name": "steps"}})
    config.objective.name, config.objective.weighting = "denoising", {"name": "constant"}
    recipe = checks.validate(config)
    assert recipe.parameterization.name == "difference" and recipe.parameterization.clock(recipe.schedule, 0.5) == 499
    assert recipe.objective.reads.parameterization.name == "difference"


@pytest.mark.parametrize("kind", ["v", "velocity"])
def test_the_weighting_multiplies_the_error_of_x0_whatever_the_network_predicts(ideas, kind):
    """At alpha = 0.8, sigma = 0.6 the log-SNR is log(16 / 9); a network that returns 0 predicts an x0 by hand."""
    schedule, x0, eps = schedules.trigonometric(), np.float32([[1.0, -2.0]]), np.float32([[0.5, 3.0]])
    t = float(np.arccos(0.8) * 2 / np.pi)
    density = timesteps.Density(tuple, lambda state, keys, i: (jnp.full(len(keys), t), jnp.ones(len(keys))), None)
    x_t = 0.8 * x0 + 0.6 * eps
    alpha_dot, sigma_dot = -0.6 * np.pi / 2, 0.8 * np.pi / 2
    predicted = {"v": 0.8, "velocity": sigma_dot / (0.8 * sigma_dot - 0.6 * alpha_dot)}[kind] * x_t
    weight = np.exp(-(((np.log(16 / 9) - 0.2) / 1.5) ** 2) / 2)
    objective = objectives.denoising(getattr(parameterizations, kind)(), ideas.bell(0.2, 1.5), density)
    batch = {"x": jnp.asarray(x0), "noise": jnp.asarray(eps)}
    networks, keys = {"model": lambda x, t, condition: 0 * x}, jax.random.split(jax.random.key(0), 1)
    loss = jax.jit(lambda batch: objective(networks, schedule, keys, batch, 0)[0])(batch)
    np.testing.assert_allclose(loss, weight * ((predicted - x0) ** 2).mean(), rtol=1e-4)


def test_the_objective_is_least_at_the_mean_of_what_has_one_x_t(ideas):
    """Pairs (x_0, eps) and their mirror images about the mean given x_t have one x_t, so that by symmetry the mean is
    the best output; and the loss there is that of the formula, by hand."""
    schedule = schedules.rectified_flow()
    t = 0.25
    c = 0.5
    density = timesteps.Density(tuple, lambda state, keys, i: (jnp.full(len(keys), t), jnp.ones(len(keys))), None)
    objective = ideas.huber(density, parameterizations.velocity(), c=c)
    d = np.array([[0.3, -0.2], [-0.3, 0.2], [0.1, 0.7], [-0.1, -0.7]], np.float32)
    x_t = np.float32([0.5, -1.0])  # mean is that of x_0 given x_t
    mean = np.float32([0.2, 0.4])
    x_0 = mean + d
    eps = (x_t - (1 - t) * x_0) / t
    best = (x_t - mean) / t  # E[eps - x_0 | x_t], since eps - x_0 = (x_t - x_0) / t

    batch = {"x": jnp.asarray(x_0), "noise": jnp.asarray(eps)}
    keys = jax.random.split(jax.random.key(0), 4)

    @jax.jit
    def slope_and_losses(bias):
        def total(bias):
            model = lambda x, clock, condition: jnp.broadcast_to(best + bias, x.shape)
            losses = objective({"model": model}, schedule, keys, batch, 0)[0]
            return losses.sum(), losses

        return jax.grad(total, has_aux=True)(bias)

    slope, losses = slope_and_losses(jnp.zeros(2))
    np.testing.assert_allclose(losses, np.sqrt((d**2).mean(axis=1) / t**2 + c**2) - c, rtol=1e-5)  # the error is d / t
    np.testing.assert_allclose(slope, 0, atol=1e-5)
    assert (slope_and_losses(jnp.full(2, 0.1))[0] > 0.05).all()


@pytest.mark.extended
def test_the_coupling_sorts_the_noise_of_each_class_as_the_data(ideas):
    """In one dimension every direction has the order of the numbers, or its reverse, for both."""
    x, eps = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 1)), jnp.float32)
    labels = np.array([0, 1, 1, 0, 0, 1, 0, 1])
    paired = np.asarray(ideas.sliced(8)(jax.random.split(jax.random.key(0), 8), x, eps, jnp.asarray(labels)))
    for label in (0, 1):
        mine = labels == label
        order = np.argsort(x[mine, 0])
        np.testing.assert_array_equal(paired[mine][order], np.sort(eps[mine], axis=0))


def test_the_sampler_quarters_its_error_with_half_the_step(ideas):
    """On the Gaussian of variance v, whose flow is x_s / x_t = std(s) / std(t), std^2 = alpha^2 v + sigma^2."""
    v = 0.3
    line = schedules.rectified_flow()
    variance = lambda t: (1 - t) ** 2 * v + t**2
    denoise = lambda x, t: parameterizations.Prediction((1 - t) * v / variance(t) * x, t / variance(t) * x)
    sampler = ideas.ralston()
    errors = []
    for steps in (8, 16):
        plan = timesteps.plan(np.linspace(0.9, 0.1, steps + 1))
        state = sampler.init(jnp.ones((1, 1)), line, plan)
        for i in range(steps):
            state = sampler.step(state, denoise, line, plan, i, None)
        errors.append(abs(float(state.x[0, 0]) - (variance(0.1) / variance(0.9)) ** 0.5))
    assert 3.5 < errors[0] / errors[1] < 4.5


@pytest.mark.slow
def test_the_sampler_reaches_its_order(ideas, monkeypatch, x64):
    monkeypatch.setitem(conformance.SAMPLERS, "ralston", ideas.ralston())
    monkeypatch.setitem(test_sampler_orders.SOLVERS, "ralston", test_sampler_orders.Solver(2, "t"))
    test_sampler_orders.test_interior_order_is_the_published_one("ralston", "cosine", "gaussian")


@pytest.mark.slow
def test_the_guidance_passes_the_suite_of_guidance(ideas, monkeypatch):
    suite = test_guidance_conformance
    case = suite.Case(lambda d, s, w: ideas.capped(suite._each(d), w), interval=False)
    monkeypatch.setitem(suite.GUIDANCES, "capped", case)
    suite.test_neutral_is_the_unguided_denoiser_exactly("capped", "cosine")
    suite.test_the_prediction_still_adds_up_to_x("capped", "cosine")
    suite.test_finite_at_both_ends("capped", "rectified_flow")
    suite.test_calls_are_counted("capped")
    suite.test_an_example_depends_on_itself_alone("capped")


def test_the_guidance_moves_no_farther_than_it_says(ideas):
    pair = [parameterizations.Prediction(jnp.array([[x, 0.0]]), jnp.zeros((1, 2))) for x in (2.0, 1.0)]
    moved = [float(ideas.capped(lambda x, t: pair, w, most=0.5)(None, None).x0[0, 0]) for w in (1.0, 1.5, 2.0, 9.0)]
    np.testing.assert_allclose(moved, [2.0, 2.5, 3.0, 3.0])  # half of a length of 2


def test_the_backbone_depends_on_time_and_class(ideas):
    module = Resolver(changed(model={"name": "conv_net", "width": 16, "depth": 1, "num_classes": 10})).model()
    assert isinstance(module, ideas.ConvNet) and module.width == 16
    backbone = backbones.Backbone(module, (8, 8, 1), lambda batch: np.arange(batch, dtype=np.int32))
    params = {"params": backbones.parameters(backbone)}
    x, t, label = backbones.inputs(backbone)
    apply = jax.jit(module.apply)
    output = apply(params, x, t, label)
    assert output.shape == x.shape and np.abs(output).max() > 0.1
    for others in ((x, t + 0.1, label), (x, t, label[::-1]), (x, t, np.full(2, 10, np.int32))):
        assert np.abs(apply(params, *others) - output).max() > 1e-4
    np.testing.assert_array_equal(apply(params, np.stack([x[0], -x[1]]), t, label)[0], output[0])


@pytest.mark.slow
def test_the_backbone_passes_the_suite_of_backbones(ideas, monkeypatch):
    module = ideas.ConvNet(16, 2, backbones.CLASSES)
    backbone = backbones.Backbone(module, (8, 8, 3), backbones.labels)
    monkeypatch.setitem(backbone_suite.BACKBONES, "conv_net", backbone)
    params, network = backbone_suite.made("conv_net")
    apply = lambda *arguments: network(params, *arguments)
    inputs = backbones.inputs(backbone)
    at = (apply, *inputs, apply(*inputs))
    backbone_suite.test_outside_jit_and_with_one_time_it_is_the_same("conv_net", at)
    backbone_suite.test_examples_do_not_see_each_other("conv_net", at)
    backbone_suite.test_time_and_every_entry_of_the_condition_are_heard("conv_net", at)
    backbone_suite.test_an_error_has_a_gradient_in_every_parameter("conv_net")
    backbone_suite.test_guidance_runs_both_branches_in_one_call("conv_net", at)
    backbone_suite.test_a_sampler_runs("conv_net")


def test_the_dataset_is_read_by_the_pipeline(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path))
    config = changed()
    config.data.update({"name": "rings", "threads": 0})
    found = examples.open_examples(Recipe.from_config(config))
    assert (found.spec.shape, found.spec.num_classes, found.spec.size) == ((8, 8, 1), 3, 300)
    batches = found.batches(config, 0, range(32), 0)
    batch = next(batches)
    batches.close()
    assert batch["image"].shape == (32, 8, 8, 1)
    images = np.asarray(batch["image"][..., 0], float)
    radius = 1 + np.asarray(batch["label"])
    x, y = np.mgrid[:8, :8] - 3.5
    weighed = (np.hypot(x, y) * images).sum(axis=(1, 2)) / images.sum(axis=(1, 2))  # the mean radius of the bright ones
    assert set(radius) == {1, 2, 3}
    np.testing.assert_array_equal(1 + np.digitize(weighed, (1.75, 2.65)), radius)


def test_the_figure_is_the_mean_with_its_error(ideas):
    images = np.stack([np.full((2, 2, 1), value, np.uint8) for value in (0, 51, 102)])  # 0, 0.2, 0.4
    of = model_metrics.Subject({}, pathlib.Path(), images, None, None, type("Split", (), {"images": images[:2]}))
    found = model_metrics.METRICS["brightness"](of)
    assert found["brightness"] == pytest.approx({"value": 0.2, "standard_error": 0.2 / 3**0.5, "samples": 3})
    assert found["brightness_of_held_out"]["value"] == pytest.approx(0.1)


def test_the_space_of_features_can_be_named(ideas):
    assert "rows" in features.names()
    extractor = names.FEATURES["rows"](None, None)
    image = np.zeros((1, 4, 2, 1), np.uint8)
    image[0, 1] = 255
    np.testing.assert_allclose(features.rows(extractor.extract, image), [[0, 1, 0, 0]])


def test_their_arguments_are_checked_like_any_other():
    with pytest.raises(ConfigError, match=r"config\.schedule: unknown argument of power 'q'.* Valid: p\."):
        _ = Resolver(changed(schedule={"name": "power", "q": 2.0})).schedule
    with pytest.raises(ConfigError, match=r"config\.schedule\.p = 'two'"):
        _ = Resolver(changed(schedule={"name": "power", "p": "two"})).schedule


def test_an_unknown_name_says_how_to_add_one():
    with pytest.raises(ConfigError, match=r"unknown schedule 'pover'\. Did you mean 'power'\?.* --extend=FILE"):
        _ = Resolver(changed(schedule={"name": "pover"})).schedule


def test_a_name_that_is_taken_or_no_function_is_refused(ideas):
    with pytest.raises(ConfigError, match="'heun' is already taken"):
        names.add(names.SAMPLERS, ideas.ralston, "heun")
    with pytest.raises(ConfigError, match="Valid: a function"):
        names.add(names.SAMPLERS, ideas.ralston())
    assert "ralston" in names.SAMPLERS and names.SAMPLERS["heun"] is not ideas.ralston


@pytest.mark.parametrize(
    "text, words",
    [
        ("x = 1\ny = = 2\n", "line 2: SyntaxError"),
        ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "from diffusion.recipe import names\n\nnames.add(names.SAMPLERS, len, 'ddim')\n",
            "line 3: names.add: the name 'ddim' is already taken",
        ),
        (None, "no such Python file"),
    ],
)
def test_an_error_in_an_extension_names_the_file_in_one_sentence(tmp_path, text, words):
    path = tmp_path / "mine.py"
    if text:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        extensions.extend(str(path))
    assert str(error.value).startswith(f"--extend={path}") and words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sweep_knows_the_names_of_its_commands_files(tmp_path):
    path = tmp_path / "swept.py"
    path.write_text(
        "from diffusion import schedules\nfrom diffusion.recipe import names\n"
        "names.add(names.SCHEDULES, schedules.rectified_flow, 'swept')\n"
    )
    assert sweep_commands.settings([("diffusion", "train", f"--extend={path}")], {}, set()) == []
    assert names.SCHEDULES["swept"] is schedules.rectified_flow


@pytest.mark.slow
def test_a_run_of_all_of_them_from_training_to_its_figures(file, tmp_path):
    """And without --extend the run's own config brings no code with it. `checks.validate` takes every name."""
    base = pathlib.Path(__file__).parent.parent / "configs" / "digits.py"
    mine = [f"--extend={file}"]
    entries = {
        "schedule": {"name": "power", "p": 1.5},
        "objective": {
            "name": "huber",
            "density": {"name": "uniform_density"},
            "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
        },
        "model": {"name": "conv_net", "width": 16, "depth": 1, "num_classes": 3},
        "data.name": "rings",
        "sample.sampler": {"name": "ralston"},
        "sample.guidance": {"name": "capped", "scale": 1.5},
        "evaluate.features": ("pixels", "rows"),
    }
    words = [f"--config.{field}={value}" for field, value in entries.items()]
    env = {**os.environ, "DIFFUSION_CACHE": str(tmp_path / "cache")}
    folder = f"--workdir={tmp_path / 'run'}"
    run = lambda name, *more: commands.run("-m", f"experiments.{name}", folder, *more, env=env, timeout=600)
    done = run("train", f"--config={base}:tiny", *words, *mine)
    assert done.returncode == 0, done.stderr
    refused = run("sample")
    assert refused.returncode == 2 and "--extend=FILE" in refused.stderr and "Traceback" not in refused.stderr
    for name, more in (("sample", ()), ("evaluate", ("--metrics=brightness",))):
        done = run(name, *mine, *more)
        assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    images = np.load(tmp_path / "run" / "samples.npz")["images"]
    assert report["model"]["brightness"]["value"] == pytest.approx(images.mean() / 255)
    assert report["figures"]["frechet"]["rows"]["dimensions"] == 8
    assert "brightness" in (tmp_path / "run" / "report.md").read_text()
