"""Runs on series of which a part is given: recipes, mistakes, exact networks, and one run from training to its CRPS."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffusion.data import gaussian_processes, series_masks
from diffusion.experiments import train
from diffusion.experiments.evaluation import model_metrics, real_images, series_charts, series_process, series_scores
from diffusion.experiments.sampling import generate, requested, run_samples
from diffusion.metrics import crps
from diffusion.recipe import ConfigError, checks, data, recipes

FORECAST = {"name": "forecast", "horizon": 4}


def config_of(hide=FORECAST, recipe="forecast", **changes):
    """A tiny config on series of 12 steps and 2 channels."""
    config = recipes.load(f"series/{recipe}:tiny")
    config.data.source.update({"length": 12, "channels": 2, "number": 40})
    if hide is not None:
        config.data.source["hide"] = hide
    config.update_from_flattened_dict(changes)
    return config


class ExactNetwork:
    """The velocity E[eps - x_0 | x_t, given] of a process with one mask for all series, as a network."""

    def __init__(self, process, mask):
        seen = mask.ravel()
        K = process.covariance
        self._weights = np.zeros(K.shape)
        self._weights[:, seen] = np.linalg.solve(K[np.ix_(seen, seen)], K[seen]).T
        self._values, self._axes = np.linalg.eigh(gaussian_processes.conditional(process, mask * 0.0, mask)[1])

    def apply(self, params, x, clock, condition):
        t = jnp.broadcast_to((clock + 1) / 1000, (len(x),))[:, None]
        flat = lambda leaf: leaf.reshape(len(x), -1)
        mean = flat(condition["given"]) @ self._weights.T
        x_t = flat(x) + (1 - t) * jnp.where(flat(condition["real"]), 0, mean)  # of what is given x_t has no part
        rotated = (x_t - (1 - t) * mean) @ self._axes
        shrunk = rotated / ((1 - t) ** 2 * jnp.maximum(self._values, 0) + t**2)
        x_0 = mean + (1 - t) * (shrunk * jnp.maximum(self._values, 0)) @ self._axes.T
        eps = t * shrunk @ self._axes.T
        return (eps - x_0).reshape(x.shape)


@pytest.mark.extended
def test_samples_of_the_exact_network_have_the_crps_of_the_exact_conditional():
    config = config_of(**{"sample.steps": 40, "sample.number": 6000, "sample.batch_size": 6000})
    source = data.source(config, "test")
    part = series_scores.parts(source, 30)
    recipe = checks.with_data(checks.validate(config), source.spec)
    recipe = dataclasses.replace(
        recipe,
        network=ExactNetwork(source.process, part.mask[0]),
        rebuilt=dataclasses.replace(recipe.rebuilt, network=None),
    )
    make = generate.generator(recipe).images
    samples = series_scores.drawn(lambda *rest: make({}, *rest), part, np.arange(6000, dtype=np.uint32))
    assert samples.shape == (200, 30, 12, 2)
    assert not samples[:, part.mask].any() and (samples[:, part.real] != 0).all()
    closed, draws = series_scores.exact(source.process, part)
    exact = series_scores.averaged(closed, part.real)["value"]
    found = series_scores.scores(samples, part, closed=closed) | series_scores.scores(draws, part, "exact_draws_")
    assert found["crps_excess"]["value"] == pytest.approx(found["crps"]["value"] - exact)
    assert found["crps"]["value"] == pytest.approx(exact, rel=0.02)
    assert found["exact_draws_crps"]["value"] == pytest.approx(exact, rel=0.03)
    for name in ("crps_quantile_form", "crps_sum"):
        assert found[name]["value"] == pytest.approx(found[f"exact_draws_{name}"]["value"], rel=0.04)
    for level in (50, 90):
        assert found[f"coverage_{level}"]["value"] == pytest.approx(level / 100, abs=0.06)
    mean, covariance = gaussian_processes.conditional(source.process, part.given[0], part.mask[0])
    hidden = part.real[0]
    np.testing.assert_allclose(samples[:, 0].mean(0)[hidden], mean[hidden], atol=0.2)
    np.testing.assert_allclose(samples[:, 0].var(0)[hidden], np.diag(covariance).reshape(12, 2)[hidden], rtol=0.4)
    of_all = series_scores.score_marginal(source, part)["crps_marginal"]["value"]
    assert 1.2 * exact < of_all == pytest.approx(1 / np.sqrt(np.pi), rel=0.2)


def test_whole_series_beside_their_process(tmp_path):
    """Of exact draws: the entropy within four standard errors; of N(0, 4 K): closed forms of all three figures."""
    config = config_of(None, "unconditional")
    process = data.source(config, "test").process
    draws = gaussian_processes.draw(np.zeros(24), process.covariance, 4000, np.random.default_rng(0))
    subject = model_metrics.Subject(config, tmp_path, draws.reshape(-1, 12, 2), None, None, None)
    found = model_metrics.METRICS["process"](subject)
    entropy = found["process_entropy"]["value"]
    assert entropy == pytest.approx(stats.multivariate_normal(np.zeros(24), process.covariance).entropy() / 24)
    error = found["process_cross_entropy"]["standard_error"]
    assert abs(found["process_cross_entropy"]["value"] - entropy) < 4 * error < 0.05
    assert found["process_distance"]["value"] < 0.1 < 2 < found["noise_process_distance"]["value"]
    assert found["process_covariance_error"]["value"] < 0.1 < 0.5 < found["noise_process_covariance_error"]["value"]
    assert (tmp_path / "process.png").is_file()
    louder = series_process.scores(2 * draws.reshape(-1, 12, 2), process)
    assert louder["process_cross_entropy"]["value"] == pytest.approx(entropy + 1.5, abs=0.06)
    assert louder["process_distance"]["value"] == pytest.approx(24, rel=0.05)  # tr(K) (2 - 1)^2
    assert louder["process_covariance_error"]["value"] == pytest.approx(3, rel=0.1)
    assert json.dumps(found)
    for other, words in (
        (config_of(), "is given. Valid: --metrics=crps"),
        (recipes.load("points:tiny"), "has no known"),
    ):
        with pytest.raises(ConfigError, match=words):
            model_metrics.METRICS["process"](subject._replace(config=other))


def test_missing_values_do_not_count():
    source = data.source(config_of(), "test")
    part = series_scores.parts(source, 5)
    samples = np.random.default_rng(0).normal(size=(20, 5, 12, 2)) * part.real
    gone = part.truth.copy()
    gone[2, -1, 0] = np.nan
    few = part.real.copy()
    few[2, -1, 0] = False
    with_gap = series_scores.scores(samples, part._replace(truth=gone))
    assert with_gap == series_scores.scores(samples * few, part._replace(real=few))
    assert with_gap != series_scores.scores(samples, part)


@pytest.mark.parametrize("recipe", ("forecast", "imputation", "unconditional"))
def test_recipes_fit_their_data(recipe):
    for preset in ("", "tiny", "channels"):
        config = recipes.load(f"series/{recipe}:{preset}")
        config.data.source.number = 5
        made = checks.on_its_data(checks.validate(config))
        assert made.examples.shape == (48, 3 if preset == "channels" else 1)
        assert (made.examples.null is None) == (recipe == "unconditional") == (not made.network.given)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data.source.hide": {"name": "forecast", "horizon": 12}}, "hides the whole of a series of 12 steps"),
        ({"data.source.hide": {"name": "forcast", "horizon": 4}}, r"config\.data\.source\.hide\.name.*forecast"),
        ({"data.source.hide": {"name": "gaps", "longest": 0}}, "longest = 0"),
        ({"data.source": {"name": "gaussian_series", "number": 9, "hide": 0}}, r"config\.data\.source\.hide = 0"),
        ({"model.given": False}, r"config\.model\.given = False, but .* has a series with a given part"),
        ({"data.source": {"name": "gaussian_series", "number": 9}}, r"config\.model\.given = True, but .*Valid: False"),
    ],
)
def test_mistakes_are_refused(changes, message):
    config = config_of(**changes)
    with pytest.raises(ConfigError, match=message):
        checks.with_data(checks.validate(config), data.source(config, "train").spec)


def test_what_is_missing_is_neither_learned_from_nor_scored(tmp_path):
    np.save(tmp_path / "holes.npy", np.where(np.arange(60) % 9 == 0, np.nan, np.arange(60.0)))
    config = config_of()
    entry = {"name": "series_windows", "path": str(tmp_path / "holes.npy"), "length": 12, "hide": {"name": "missing"}}
    config.data.source = entry
    source = data.source(config, "train")
    checks.on_its_data(checks.validate(config))  # for sampling
    with pytest.raises(ConfigError, match=r"config\.data\.source\.hide = .*Valid: with the name forecast, gaps"):
        checks.with_data(checks.validate(config), source.spec)
    with pytest.raises(ConfigError, match=r"which are not known for .*\. Valid: .* with the name forecast, gaps"):
        series_scores.parts(source, 3)


def test_scores_as_csdi_has_them_are_of_the_units_of_the_file():
    rng = np.random.default_rng(0)
    part = series_scores.parts(data.source(config_of(), "test"), 5)
    samples = rng.normal(size=(20, 5, 12, 2)) * part.real
    mean, std = np.array([50.0, -3.0]), np.array([2.0, 0.1])
    found = series_scores.scores(samples, part, units=(mean, std))
    form = crps.quantile_form(samples * std + mean, part.truth * std + mean, part.real)
    assert found["crps_quantile_form"]["value"] == pytest.approx(form)
    total = crps.quantile_form((samples * std + mean).sum(-1), (part.truth * std + mean).sum(-1), part.real.all(-1))
    assert found["crps_sum"]["value"] == pytest.approx(total)
    standard = series_scores.scores(samples, part)
    assert found["crps"] == standard["crps"]
    assert form < 0.1 * standard["crps_quantile_form"]["value"]  # relative to the mean absolute target


def test_conditions_of_a_command_line_are_checked(tmp_path):
    config = config_of()
    recipe = checks.on_its_data(checks.validate(config))
    part = series_scores.parts(data.source(config, "test"), 2)
    np.savez(tmp_path / "good.npz", **{name: getattr(part, name) for name in ("given", "mask", "real")})
    rows = requested.conditions(str(tmp_path / "good.npz"), recipe)
    np.testing.assert_array_equal(rows["given"][:2], part.given)
    given = np.where(part.real, np.nan, part.given)
    np.savez(tmp_path / "nan.npz", given=given, mask=part.mask, real=part.real)
    rows = requested.conditions(str(tmp_path / "nan.npz"), recipe)
    np.testing.assert_array_equal(rows["given"][:2], part.given)  # zeros where nothing is given, as in the records
    given[1, 3, 0] = np.nan
    np.savez(tmp_path / "bad.npz", given=given, mask=part.mask, real=part.real)
    with pytest.raises(ConfigError, match="series 1 has a given value that is no finite number"):
        requested.conditions(str(tmp_path / "bad.npz"), recipe)


@pytest.mark.extended
def test_fans_are_drawn_of_series_in_groups(tmp_path):
    source = data.source(config_of({"name": "gaps"}), "test")
    part = series_scores.parts(source, 2)
    conditions = {name: np.resize(getattr(part, name), (50, 12, 2)) for name in ("given", "mask", "real")}
    samples = np.random.default_rng(0).normal(size=(50, 12, 2)) * conditions["real"]
    each, same = series_charts.grouped(samples, conditions)
    assert [len(one) for one in each] == [25, 25]
    np.testing.assert_array_equal(each[1], samples[1::2])
    np.testing.assert_array_equal(same.mask, part.mask)
    series_charts.fans(each, part, tmp_path / "fans.png", source.process)
    assert (tmp_path / "fans.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("hide", (FORECAST, {"name": "gaps"}))
def test_a_run_trains_samples_and_is_scored(hide, tmp_path):
    config = config_of(hide)
    train.run(config, tmp_path)
    recipe = checks.on_its_data(checks.validate(config))
    samples = run_samples.sample(recipe, tmp_path)
    assert (tmp_path / "samples.png").is_file()
    with np.load(tmp_path / "samples.npz") as file:
        condition = {name: file[f"condition/{name}"] for name in ("given", "mask", "real")}
    series_masks.check(condition)
    assert not samples[condition["mask"]].any() and (samples[condition["real"]] != 0).all()
    subject = model_metrics.Subject(config, tmp_path, samples, np.zeros(len(samples)), *real_images.splits_of(config))
    measured = model_metrics.METRICS["crps"](subject)
    assert measured["crps"]["value"] > measured["crps_exact"]["value"] > 0
    assert (tmp_path / "fans.png").is_file() and json.dumps(measured)


def test_a_run_on_whole_series_is_not_scored():
    config = config_of(None, "unconditional")
    with pytest.raises(ConfigError, match="--metrics=crps is for series of which a part is given"):
        series_scores.parts(data.source(config, "test"), 3)
