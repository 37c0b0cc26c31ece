"""Scores of forecasts: what counts of which series, by closed forms of CRPS on samples that are known."""

import types

import numpy as np
import pytest

from diffusion.data import gaussian_processes, series_masks, sources
from diffusion.experiments.evaluation import series_scores
from diffusion.experiments.evaluation.series_charts import Part
from diffusion.recipe import ConfigError

NAMES = ("crps", "crps_quantile_form", "coverage_50", "coverage_90")


def part(truth, real, given=None, mask=None):
    truth, real = np.asarray(truth, float), np.asarray(real, bool)
    given = np.zeros(truth.shape) if given is None else np.asarray(given, float)
    return Part(given, ~real if mask is None else np.asarray(mask, bool), real, truth)


def spread(centre, half=1.0):
    """Samples at centre - half and centre + half: their fair CRPS at the centre is half - half = 0.

    E|X - y| = half, and the fair E|X - X'| / 2 = 2 half / 2 = half.
    """
    return np.stack([np.asarray(centre) - half, np.asarray(centre) + half])


def test_series_count_alike_whatever_is_hidden_of_them():
    """The mean over series of the mean over what is hidden of each; a missing value does not count."""
    truth = np.array([[[1.0], [np.nan], [9.0]], [[4.0], [5.0], [6.0]], [[0.0], [0.0], [0.0]]])
    real = np.array([[[1], [1], [0]], [[1], [1], [1]], [[0], [0], [0]]], bool)
    error = np.array([[[3.0], [7.0], [7.0]], [[1.0], [2.0], [3.0]], [[5.0], [5.0], [5.0]]])
    samples = np.nan_to_num(truth) + error  # one value twice: CRPS is the error
    found = series_scores.scores(np.stack([samples, samples]), part(truth, real))
    assert found["crps"]["value"] == pytest.approx((3 + (1 + 2 + 3) / 3) / 2)
    assert found["crps"]["samples"] == 2  # series of which something counts
    assert found["crps"]["standard_error"] == pytest.approx(np.std([3, 2], ddof=1) / np.sqrt(2))
    assert found["crps_quantile_form"]["value"] == pytest.approx(2 * 0.5 * (3 + 1 + 2 + 3) / (1 + 4 + 5 + 6))
    assert found["crps_quantile_form"]["samples"] == 3
    # Losses 3 and 6 of targets 1 and 15: the residuals of 9 / 16 are 3 - 9/16 and its negative, the mean target is 8.
    assert found["crps_quantile_form"]["standard_error"] == pytest.approx((3 - 9 / 16) / 8)
    assert found.keys() == set(NAMES)


def test_coverage_is_of_the_levels_in_its_name():
    """Samples 0 .. 100: 20 is outside of the central 50 % and inside of 90 %, 2 outside of both, 50 inside."""
    truth = np.array([[[50.0], [20.0], [2.0], [98.0]]])
    samples = np.arange(101.0)[:, None, None, None] * np.ones((1, 1, 4, 1))
    found = series_scores.scores(samples, part(truth, np.ones((1, 4, 1))))
    assert found["coverage_50"]["value"] == pytest.approx(1 / 4)
    assert found["coverage_90"]["value"] == pytest.approx(2 / 4)


def test_the_excess_over_the_exact_distribution():
    truth = np.array([[[1.0], [2.0]]])
    samples = np.stack([truth + 3.0] * 2)
    found = series_scores.scores(samples, part(truth, np.ones((1, 2, 1))), "a_", closed=np.array([[[1.0], [0.5]]]))
    assert found["a_crps_excess"]["value"] == pytest.approx(3 - 0.75)
    assert found.keys() == {f"a_{name}" for name in (*NAMES, "crps_excess")}


def test_relative_scores_are_in_the_units_before_they_were_standardised():
    """(x - 10) / 2 was scored: an error of 3 is one of 6 beside targets of 10 + 2 y."""
    truth = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    samples = np.stack([truth + 3.0] * 2)
    units = (np.array([10.0, 20.0]), np.array([2.0, 4.0]))
    found = series_scores.scores(samples, part(truth, np.ones((1, 2, 2))), units=units)
    targets = np.array([12, 28, 16, 36])
    assert found["crps_quantile_form"]["value"] == pytest.approx((6 + 12 + 6 + 12) / targets.sum())
    assert found["crps_sum"]["value"] == pytest.approx((18 + 18) / (40 + 52))
    assert found["crps"]["value"] == pytest.approx(3)  # as the network sees them
    assert found["crps_sum"]["samples"] == 1


def test_the_error_of_a_relative_score_is_that_of_repeated_draws_of_series():
    """Series of other sizes: a ratio of two means, in 300 draws of 40 series. Repeated windows tell nothing more."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        truth = rng.gamma(4.0, size=(40, 1, 1)) * rng.choice([1.0, 3.0], (40, 1, 1))
        samples = np.stack([truth + rng.normal(size=(40, 1, 1))] * 2)
        found.append(series_scores.relative(samples, truth, np.ones((40, 1, 1), bool)))
    errors = np.array([figure["standard_error"] for figure in found])
    spread = np.std([figure["value"] for figure in found], ddof=1)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(spread, rel=0.15)  # which is known to 4 %
    twice = lambda x, axis: np.repeat(x, 2, axis)
    windows = series_scores.relative(
        twice(samples, 1), twice(truth, 0), np.ones((80, 1, 1), bool), np.repeat(np.arange(40), 2)
    )
    assert windows == pytest.approx(found[-1])
    assert series_scores.relative(samples[:, :1], truth[:1], np.ones((1, 1, 1), bool))["standard_error"] is None


def test_the_sum_over_channels_needs_steps_of_which_every_channel_counts():
    truth = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    half = np.array([[[1, 0], [0, 1]]], bool)
    samples = np.stack([truth + 1.0] * 2)
    assert "crps_sum" not in series_scores.scores(samples, part(truth, half))
    half[0, 1] = True
    assert series_scores.scores(samples, part(truth, half))["crps_sum"]["value"] == pytest.approx(2 / 7)


# ==== The exact conditional distribution ====


def test_the_exact_score_of_a_conditional_normal():
    """In closed form at the mean: std (2 phi(0) - 1 / sqrt(pi)); draws agree with it, and with mean and std."""
    process = gaussian_processes.stationary(4)
    given = np.random.default_rng(0).normal(size=(2, 4, 1))
    mask = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool)[..., None]
    K = process.covariance
    means, stds = [], []
    for row in range(2):
        some = mask[row, :, 0]
        weights = K[:, some] @ np.linalg.inv(K[np.ix_(some, some)])
        means.append(weights @ given[row, some, 0])
        stds.append(np.sqrt(np.maximum(np.diag(K - weights @ K[some]), 0)))
    means, stds = np.array(means)[..., None], np.array(stds)[..., None]
    closed, draws = series_scores.exact(process, Part(given, mask, ~mask, means))
    hidden = ~mask
    expected = stds * (2 / np.sqrt(2 * np.pi) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(closed[hidden], expected[hidden], rtol=1e-6)
    assert draws.shape == (series_scores.SAMPLES, 2, 4, 1)
    np.testing.assert_allclose(draws.mean(0)[hidden], means[hidden], atol=4 * 0.1 * stds.max())
    np.testing.assert_allclose(draws.std(0)[hidden], stds[hidden], rtol=0.3)
    np.testing.assert_allclose(draws.mean(0)[mask], given[mask], atol=1e-6)


# ==== Samples and sources ====


def test_samples_are_of_each_series_in_turn():
    """Each call's conditions and seeds belong together: here a sample is its seed, and the series' own value."""
    seen = []

    def make(condition, seeds, advance):
        seen.append(condition)
        advance(len(seeds))
        return seeds[:, None, None] + 100 * condition["given"]

    series = part(np.zeros((2, 1, 1)), np.ones((2, 1, 1)), given=[[[1.0]], [[2.0]]])
    samples = series_scores.drawn(make, series, np.arange(6))
    np.testing.assert_array_equal(samples[..., 0, 0], [[100, 203], [101, 204], [102, 205]])
    assert seen[0].keys() == {"given", "mask", "real"} and len(seen[0]["mask"]) == 6


class Source:
    """Records of series of one step and two channels, of which the first channel is given."""

    def __init__(self, condition=True, known=True, number=5):
        self.known, self.number = known, number
        leaf = {"given": ((1, 2), "float32")} if condition is True else condition
        self.spec = types.SimpleNamespace(condition=leaf, name="series")

    def __len__(self):
        return self.number

    def __getitem__(self, i):
        x = np.array([[i, 10.0 + i]]) if self.known else np.full((1, 2), np.nan)
        mask = np.array([[True, False]])
        return {"x": x, "condition": {"given": np.where(mask, x, 0), "mask": mask, "real": ~mask}}


def fetch(source, rows):
    return [source[int(row)] for row in rows]


@pytest.fixture(autouse=True)
def plain_fetch(monkeypatch):
    monkeypatch.setattr(series_scores.pipeline, "fetch", fetch)


def test_the_first_series_of_a_source():
    for wanted, number in ((3, 3), (9, 5)):
        some = series_scores.parts(Source(), wanted)
        np.testing.assert_array_equal(some.truth[:, 0, 1], 10.0 + np.arange(number))
        np.testing.assert_array_equal(some.given[:, 0], np.stack([np.arange(number), np.zeros(number)], 1))
        assert some.mask[..., 0].all() and some.real[..., 1].all() and not (some.mask & some.real).any()


def test_windows_of_a_file_are_spread_over_it(tmp_path):
    """Windows of a stride of 1 overlap: the first three of 16 would be of the first six steps."""
    np.save(tmp_path / "a.npy", np.arange(19.0))
    source = sources.series_windows(str(tmp_path / "a.npy"), length=4, held_out=0.0, hide=series_masks.forecast(1))
    some = series_scores.parts(source, 3)
    ends = some.truth[:, 3, 0] * source.std + source.mean
    np.testing.assert_allclose(ends, [3, 11, 18], rtol=1e-6)
    assert len(series_scores.parts(source, 99).truth) == 16


def test_windows_that_overlap_count_together(tmp_path):
    """Of 40 steps, windows of 8 that begin at 0, 1, ..: those of steps 0 .. 7 are one group, and so on."""
    np.save(tmp_path / "a.npy", np.arange(40.0))
    options = {"length": 8, "held_out": 0.0, "hide": series_masks.forecast(2)}
    some = series_scores.parts(sources.series_windows(str(tmp_path / "a.npy"), **options), 33)
    assert some.groups.tolist() == [0] * 8 + [1] * 8 + [2] * 8 + [3] * 8 + [4]
    apart = series_scores.parts(sources.series_windows(str(tmp_path / "a.npy"), stride=8, **options), 9)
    assert apart.groups.tolist() == [0, 1, 2, 3, 4]
    truth, real = np.ones((4, 1, 1)), np.ones((4, 1, 1), bool)
    samples = np.stack([truth + np.array([1.0, 3.0, 5.0, 5.0]).reshape(4, 1, 1)] * 2)  # CRPS 1, 3, 5, 5
    overlapping = series_scores.scores(samples, part(truth, real)._replace(groups=np.array([0, 0, 1, 1])))["crps"]
    assert overlapping["standard_error"] == pytest.approx(np.std([2, 5], ddof=1) / np.sqrt(2))
    alone = series_scores.scores(samples, part(truth, real)._replace(groups=np.zeros(4, int)))["crps"]
    assert alone["value"] == pytest.approx(3.5) and alone["standard_error"] is None


def test_sources_that_have_nothing_to_score_are_refused():
    for condition in (None, {"mask": 0}, ("given",)):
        with pytest.raises(ConfigError, match="--metrics=crps is for series of which a part is given, but series has"):
            series_scores.parts(Source(condition), 2)
    with pytest.raises(ConfigError, match="which are not known for series"):
        series_scores.parts(Source(known=False), 2)


def test_the_marginal_draws_each_channel_s_own_values_wherever_they_stand():
    """Channel 0 is 0 .. 4 and given, channel 1 is 10 .. 14 and hidden: drawn from all five of the channel."""
    source = Source()
    some = series_scores.parts(source, 2)
    found = series_scores.score_marginal(source, some)
    assert found.keys() == {"crps_marginal"}
    values = 10.0 + np.arange(5)
    spread = np.abs(values[:, None] - values).mean() / 2
    expected = np.mean([np.abs(values - y).mean() - spread for y in (10.0, 11.0)])
    assert found["crps_marginal"]["value"] == pytest.approx(expected, abs=0.25)
    assert found["crps_marginal"]["samples"] == 2


@pytest.mark.parametrize("known", [True, False])
def test_the_figures_of_a_run(monkeypatch, tmp_path, known):
    """Samples that are the exact distribution's own draws, where the process is known: no excess on average."""
    process = gaussian_processes.GaussianProcess((1, 2), np.array([[1.0, 0.6], [0.6, 1.0]]))
    source = Source()
    if known:
        source.process = process
    rng = np.random.default_rng(1)
    drawn = []

    def images(params, condition, seeds, advance):
        rows = []
        for given, mask in zip(condition["given"], condition["mask"]):
            mean, covariance = gaussian_processes.conditional(process, given, mask)
            rows.append(gaussian_processes.draw(mean.ravel(), covariance, 1, rng).reshape(1, 2))
        advance(len(seeds))
        return np.stack(rows)

    for name in ("held_out_source", "training_source"):
        monkeypatch.setattr(series_scores, name, lambda subject: source)
    monkeypatch.setattr(series_scores.checkpoints, "load_ema", lambda folder: ({}, 7))
    monkeypatch.setattr(series_scores.checks, "validate", lambda config: config)
    monkeypatch.setattr(series_scores.checks, "on_its_data", lambda recipe: recipe)
    monkeypatch.setattr(series_scores.generate, "trained", lambda recipe, params: recipe)
    monkeypatch.setattr(series_scores.generate, "generator", lambda recipe: types.SimpleNamespace(images=images))
    monkeypatch.setattr(series_scores.generate, "seeds", lambda config, number: np.arange(number))
    fans = lambda samples, part, path, process: drawn.append((samples, path, process))
    monkeypatch.setattr(series_scores.series_charts, "fans", fans)
    config = types.SimpleNamespace(
        evaluate=types.SimpleNamespace(split="test", number=4),
        data=types.SimpleNamespace(split="train"),
        sample=types.SimpleNamespace(seed=3, steps=9),
    )
    subject = types.SimpleNamespace(config=config, workdir=tmp_path, built=None)
    found = series_scores.continuous_ranked_probability_score(subject)
    assert found["crps"]["protocol"] == {
        "samples_of_each": 100, "estimate": "fair", "split": "test", "step": 7, "seed": 3, "steps": 9
    }  # fmt: skip
    ((samples, path, shown),) = drawn
    assert (
        samples.shape == (4, 100, 1, 2) and path == tmp_path / "fans.png" and shown is getattr(source, "process", None)
    )
    exact = {"crps_exact", "crps_excess", *(f"exact_draws_{name}" for name in NAMES)}
    assert found.keys() == {*NAMES, "crps_marginal"} | (exact if known else set())
    if known:
        gap = found["crps"]["value"] - found["crps_exact"]["value"]
        assert found["crps_excess"]["value"] == pytest.approx(gap) and abs(gap) < 0.3
        assert found["exact_draws_crps"]["value"] == pytest.approx(found["crps_exact"]["value"], abs=0.3)
        assert found["crps_exact"]["samples"] == 4
