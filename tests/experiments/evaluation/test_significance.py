"""Whether two runs differ: Student's and Welch's tests by hand, and samples exchanged as pairs or not."""

import types

import numpy as np
import pytest

from diffusion.experiments.evaluation import significance
from diffusion.experiments.evaluation.figures import Figure
from diffusion.experiments.evaluation.sample_metrics import Effort
from diffusion.experiments.evaluation.significance import Samples


def test_runs_of_equal_seeds_are_pairs():
    """Gaps 1, 2, 3: mean 2, s = 1, t = 2 sqrt(3), t(0.975, 2) = 4.302653; p = 0.0741799 (table of Student's t)."""
    found = significance.compare_seeds({0: 1.0, 1: 1.0, 2: 5.0, 9: 0.0}, {0: 2.0, 1: 3.0, 2: 8.0, 7: 0.0})
    half = 4.302652729911275 / np.sqrt(3)
    assert found.value == 2 and (found.low, found.high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert found.p == pytest.approx(0.0741799, abs=1e-6) and found.how == "3 pairs of equal seeds, Student's t"


def test_runs_of_other_seeds_are_compared_by_welch():
    first, second = {0: 1.0, 1: 2.0, 2: 3.0}, {5: 7.0, 6: 9.0}
    found = significance.compare_seeds(first, second)
    error = np.sqrt(1 / 3 + 2 / 2)  # of variances 1 and 2
    assert found.value == 6 and found.how == "3 and 2 seeds, Welch's t"
    assert (found.low + found.high) / 2 == pytest.approx(6) and found.high - 6 > 1.96 * error and found.p < 0.1
    one_pair = significance.compare_seeds(first, {0: 7.0, 6: 9.0})
    assert one_pair.how == "3 and 2 seeds, Welch's t" and one_pair.value == 6
    assert significance.compare_seeds(first, {5: 7.0}) is None and significance.compare_seeds({0: 1.0}, second) is None


def test_runs_without_scatter_are_not_tested():
    """Two shares of 20 samples are often equal; Student's t of differences without scatter is a division by zero."""
    same = {0: 2.0, 1: 2.0}
    assert significance.compare_seeds(same, same)[:4] == (0.0, 0.0, 0.0, 1.0)
    for second in ({0: 3.0, 1: 3.0}, {7: 3.0, 8: 3.0}):
        found = significance.compare_seeds(same, second)
        assert found.value == 1.0 and np.isnan(found[1:4]).all() and "not tested" in found.how


def test_differences_that_only_rounding_scatters_are_not_tested():
    """0.3 - 0.2 and 0.4 - 0.3 are both a tenth; in floating point they differ by 6e-17, which is no scatter of runs."""
    found = significance.compare_seeds({0: 0.2, 1: 0.3}, {0: 0.3, 1: 0.4})
    assert found.value == pytest.approx(0.1) and np.isnan(found[1:4]).all() and "not tested" in found.how
    tiny = significance.compare_seeds({0: 1e-9, 1: 2e-9}, {0: 3e-9, 1: 5e-9})  # gaps 2e-9 and 3e-9 scatter
    assert 0 < tiny.p < 1 and "not tested" not in tiny.how


def test_intervals_of_two_figures_add_in_squares():
    """Half widths 3 and 4 make 5; z = 1.96 gap / 5, and a gap of 5 has p = 0.05."""
    first, second = Figure(10.0, 7.0, 13.0), Figure(15.0, 11.0, 19.0)
    found = significance.compare_intervals(first, second)
    assert (found.value, found.low, found.high) == (5, 0, 10) and found.p == pytest.approx(0.05, abs=1e-3)
    assert significance.compare_intervals(second, first).value == -5
    assert (
        significance.compare_intervals(Figure(1.0), second) is None
        and significance.compare_intervals(first, Figure(1.0)) is None
    )
    exact = lambda value: Figure(value, value, value)
    assert (
        significance.compare_intervals(exact(1.0), exact(1.0)).p == 1
        and significance.compare_intervals(exact(1.0), exact(2.0)).p == 0
    )


# ==== Samples ====


@pytest.fixture
def run(monkeypatch):
    """Two sets of samples, whose feature is their first pixel, and the distance its mean; 60 resamples."""
    monkeypatch.setattr(significance, "FULL", Effort(60, 2))
    monkeypatch.setattr(significance, "rows", lambda extract, images: images[:, 0, 0, :1].astype(float))
    monkeypatch.setattr(significance, "extractor_of", lambda name, config, train: types.SimpleNamespace(extract=name))
    monkeypatch.setattr(significance.frechet, "moments", lambda rows: rows.mean())

    def distance_to(extractor, real, effort):
        return lambda mean: float(mean), Effort(60 if extractor.extract == "pixels" else 20, 2)

    monkeypatch.setattr(significance, "distance_to", distance_to)
    net = lambda images, labels: "net"
    monkeypatch.setattr(significance.classifier, "cached", net)
    monkeypatch.setattr(significance.classifier, "predict", lambda net, images: images[:, 0, 0, 1])
    half = types.SimpleNamespace(
        images=np.zeros((100, 2, 2, 3), np.uint8), labels=np.zeros(100), spec=types.SimpleNamespace(num_classes=2)
    )
    return (half, half)


def samples(values, predicted, seed=0, labels=None):
    images = np.zeros((len(values), 2, 2, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = values, predicted
    return Samples(images, np.arange(len(values)) % 2 if labels is None else labels, seed)


def config(classes=2, features=("classifier", "pixels", "inception")):
    return {"model": {"num_classes": classes}, "evaluate": {"features": features}}


RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 200, 40)


def test_pairs_of_equal_noise_see_what_the_spread_hides(run):
    """Each sample of the second is 2 above that of the first; the spread over samples is 58."""
    first, second = samples(NOISE, np.zeros(40)), samples(NOISE + 2, np.arange(40) % 2)
    done = []
    found = significance.compare_samples(first, second, config(), run, done.append)
    assert found.keys() == {"asked_class", "fd_pixels"}  # inception's distance is too dear to repeat
    pixels = found["fd_pixels"]
    assert pixels.value == pytest.approx(2) and pixels.p < 0.05 and "40 pairs of samples of equal noise" in pixels.how
    assert pixels.low == pytest.approx(2) and pixels.high == pytest.approx(2)  # of every resample of pairs
    right = found["asked_class"]
    assert right.value == pytest.approx(0.5) and right.p < 0.05 and right.how.endswith(", exchanged")
    assert done == [1, 2, 3, 4]


def test_classifiers_and_features_learn_from_the_training_split_and_distances_are_to_the_other(run, monkeypatch):
    train, real = (types.SimpleNamespace(**{**vars(half), "images": half.images.copy()}) for half in run)
    learned = []
    cached = lambda images, labels: learned.append(images)
    monkeypatch.setattr(significance.classifier, "cached", cached)
    extractor = lambda name, config, split: learned.append(split.images) or types.SimpleNamespace(extract=name)
    monkeypatch.setattr(significance, "extractor_of", extractor)
    compared, to_mean = [], significance.distance_to
    distance = lambda extractor, split, effort: compared.append(split) or to_mean(extractor, split, effort)
    monkeypatch.setattr(significance, "distance_to", distance)
    sets = samples(NOISE, np.zeros(40)), samples(NOISE + 2, np.zeros(40))
    significance.compare_samples(*sets, config(features=("classifier", "pixels")), (train, real))
    assert len(learned) == 3 and all(images is train.images for images in learned)
    assert len(compared) == 2 and all(split is real for split in compared)


@pytest.mark.parametrize("change", [{"seed": 1}, {"seed": None}, {"labels": np.zeros(40, int)}])
def test_other_noise_or_classes_are_no_pairs(run, change):
    first = samples(NOISE, np.zeros(40), **({"seed": None} if change.get("seed", 0) is None else {}))
    found = significance.compare_samples(first, samples(NOISE + 2, np.zeros(40), **change), config(), run)
    pixels = found["fd_pixels"]
    assert pixels.how == "40 and 40 samples, exchanged" and pixels.p > 0.3
    assert pixels.value == pytest.approx(2) and pixels.low < 0 < 4 < pixels.high


def test_sets_of_two_sizes_have_the_accuracy_of_all_their_samples(run):
    """Of 40 samples half are of their class, of 30 all: rows of the first set do not count among the second."""
    first, second = samples(NOISE, np.zeros(40)), samples(NOISE[:30], np.arange(30) % 2)
    right = significance.compare_samples(first, second, config(features=("classifier",)), run)["asked_class"]
    assert right.value == 0.5 and right.how == "40 and 30 samples, exchanged" and right.p < 0.05


def test_models_without_classes_have_no_accuracy_and_keep_their_order(run):
    first, second = samples(NOISE, np.zeros(40)), samples(NOISE[:30] + 1, np.zeros(30))
    found = significance.compare_samples(first, second, config(classes=0), run)
    assert found.keys() == {"fd_pixels"}
    assert found["fd_pixels"].value == pytest.approx((NOISE[:30] + 1).mean() - NOISE[:30].mean())
    few = significance.compare_samples(first, first, config(features=("pixels",)), run)
    assert few.keys() == {"fd_pixels"} and few["fd_pixels"].value == 0 and few["fd_pixels"].p == 1


@pytest.mark.parametrize("high", [(0, 1), (6, 7)])
def test_sets_of_two_sizes_are_exchanged_as_they_are(high):
    """Of the 28 ways to choose two of eight rows one alone has both high ones; p is its share of the draws."""
    values = np.zeros(8)
    values[list(high)] = 10.0
    sizes = (2, 6) if high == (0, 1) else (6, 2)
    found = significance._tested(values, sizes, np.mean, False, None)
    assert found.value == (-10.0 if high == (0, 1) else 10.0)
    assert found.how == f"{sizes[0]} and {sizes[1]} samples, exchanged"
    draws = significance.FULL.draws
    error = np.sqrt(1 / 28 * 27 / 28 / draws)
    assert abs(found.p - (1 + draws / 28) / (1 + draws)) < 5 * error
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("pairs", [True, False])
def test_resamples_have_as_many_rows_of_each_class_as_the_samples(pairs, monkeypatch):
    """A statistic that the classes alone decide is the same in all of them; without classes it is not."""
    monkeypatch.setattr(significance, "FULL", Effort(60, 2))
    classes = np.tile([0, 1, 1], 8)
    values = np.where(np.arange(24) < 12, classes, 3 * classes)
    found = significance._tested(values, (12, 12), np.mean, pairs, classes)
    assert found.low == pytest.approx(found.value) == found.high and found.value == pytest.approx(2 * 2 / 3)
    other = significance._tested(values, (12, 12), np.mean, pairs, None)
    assert other.low < found.value < other.high
