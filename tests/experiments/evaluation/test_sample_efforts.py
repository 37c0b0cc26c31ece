"""How often a distance is repeated: by the size of its features, for a distance of D features costs D^3."""

import types

import numpy as np
import pytest

from diffusion.experiments.evaluation import sample_metrics
from diffusion.experiments.evaluation.sample_metrics import FULL, IN_LOOP, Effort


@pytest.fixture
def effort_of(monkeypatch):
    """The effort that `distance_to` allows for features of a size."""

    def effort(dimensions, asked):
        moments = types.SimpleNamespace(mean=np.zeros(dimensions))
        monkeypatch.setattr(sample_metrics, "moments", lambda extract, images: moments)
        monkeypatch.setattr(sample_metrics.frechet, "distance_to", lambda reference: reference)
        extractor = types.SimpleNamespace(keep=False, extract=None)
        return sample_metrics.distance_to(extractor, types.SimpleNamespace(images=None), asked)[1]

    return effort


@pytest.mark.parametrize(
    "dimensions, allowed",
    [(2, (500, 20)), (256, (500, 20)), (257, (20, 4)), (1024, (20, 4)), (1025, (0, 2)), (2048, (0, 2))],
)
def test_larger_features_are_repeated_less(effort_of, dimensions, allowed):
    """A 95 % interval needs some hundred resamples; a standard deviation of the floor needs two subsets."""
    assert effort_of(dimensions, FULL) == allowed
    assert effort_of(dimensions, Effort(7, 3)) == (min(7, allowed[0]), min(3, allowed[1]))
    assert effort_of(dimensions, IN_LOOP).draws == 0  # a training loop has no time for intervals


def test_a_training_loop_spends_little(monkeypatch):
    seen = []
    monkeypatch.setattr(sample_metrics, "measure", lambda *args, **words: seen.append((args, words)) or {})
    monkeypatch.setattr(sample_metrics.figures, "read_samples", lambda measured: {})
    assert sample_metrics.evaluate_samples("images", "labels", {}, "test", ("train", "real")) == {}
    assert seen == [(("images", "labels", {}, "test"), {"effort": IN_LOOP, "real_splits": ("train", "real")})]


def test_a_distance_stands_beside_its_floor_and_all_samples(monkeypatch):
    """The distance is a mean of rows here; every figure is made of those that were computed, in their order."""
    calls = []
    rng = np.random.default_rng(0)
    samples, train, real = (
        types.SimpleNamespace(images=rng.uniform(*span, (8, 1)), labels=np.array([0, 0, 0, 0, 0, 0, 1, 1]))
        for span in ((3, 9), (30, 90), (300, 900))
    )

    def to_real(mean):
        calls.append(float(mean))
        return float(mean)

    monkeypatch.setattr(sample_metrics, "rows", lambda extract, images: images)
    monkeypatch.setattr(sample_metrics.frechet, "moments", lambda rows: rows.mean())
    monkeypatch.setattr(sample_metrics, "moments", lambda extract, images: images.shape[0] / 8)
    monkeypatch.setattr(sample_metrics, "distance_to", lambda extractor, real, effort: (to_real, effort))
    extractor = types.SimpleNamespace(keep=False, extract=None, record="made")
    found = sample_metrics.distance(
        extractor, samples.images, samples.labels, train, real, 4, True, Effort(draws=0, subsets=3)
    )
    first, floor, every, unbalanced, noise = np.split(calls, [1, 4, 7, 10])
    assert [found["distance"], found["noise"]] == [first[0], noise[0]] and noise[0] == 4 / 8
    assert found["distance"] == pytest.approx(samples.images[[0, 1, 6, 7]].mean())  # two of each class
    for of_training in (floor, unbalanced):  # not of those that the distance is to, which would be much too near
        assert 30 < of_training.min() and of_training.max() < 90
    assert every.max() < 9
    spread = np.sqrt(np.square(floor - floor.mean()).sum() / 2)
    assert found["floor"]["mean"] == pytest.approx(floor.mean()) and found["floor"]["std"] == pytest.approx(spread)
    assert found["floor"]["unbalanced_mean"] == pytest.approx(unbalanced.mean())
    assert found["all_samples"]["mean"] == pytest.approx(every.mean())
    ratios = found["ratio"], found["all_samples"]["ratio"]
    assert ratios == pytest.approx((first[0] / floor.mean(), every.mean() / floor.mean()))
    assert found["interval"] is None and found["dimensions"] == 1


def test_resamples_and_subsets_keep_the_number_of_each_class(monkeypatch):
    """The rows of a class are alike, so that the mean of rows of two classes alike is 1/2 in each resample."""
    monkeypatch.setattr(sample_metrics, "rows", lambda extract, images: images)
    monkeypatch.setattr(sample_metrics.frechet, "moments", lambda rows: rows.mean())
    monkeypatch.setattr(sample_metrics, "moments", lambda extract, images: 0.0)
    monkeypatch.setattr(sample_metrics, "distance_to", lambda extractor, real, effort: (float, effort))
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    train = types.SimpleNamespace(images=2.0 + labels[:, None], labels=labels)
    extractor = types.SimpleNamespace(keep=False, extract=None, record="made")
    arguments = (extractor, labels[:, None].astype(float), labels, train, train, 4)
    found = sample_metrics.distance(*arguments, True, Effort(draws=20, subsets=2))
    assert found["interval"] == pytest.approx((0.5, 0.5)) and found["ratio_interval"] == pytest.approx((0.2, 0.2))
    assert found["floor"]["mean"] == pytest.approx(2.5)  # of subsets likewise
    assert found["floor"]["std"] == pytest.approx(0)
    assert found["all_samples"]["std"] == pytest.approx(0) and found["floor"]["unbalanced_mean"] < 2.5
    of_all = sample_metrics.distance(*arguments[:-1], 8, True, Effort(draws=0, subsets=3))
    assert of_all["floor"] == {"mean": 2.25, "std": None, "unbalanced_mean": 2.25}
    assert of_all["all_samples"] == {"mean": 0.25, "std": None, "ratio": pytest.approx(1 / 9)}
    low, high = sample_metrics.distance(*arguments, False, Effort(draws=20, subsets=2))["interval"]
    assert low == high == 0  # the first four are of one class


def test_samples_and_held_out_pictures_are_compared_with_the_training_ones(monkeypatch):
    """Of even pictures of 16 pixels, 10 and 30 bytes from the training pictures: 4 x 10 / 255 and 4 x 30 / 255."""
    monkeypatch.setattr(sample_metrics.held_out, "require", lambda *sets: sample_metrics.held_out.TrainedOn(0, 3))
    spec = types.SimpleNamespace(pictures=True, num_classes=0, shape=(4, 4, 1))
    even = lambda number, byte: types.SimpleNamespace(
        images=np.full((number, 4, 4, 1), byte, np.uint8), labels=np.zeros(number, int), spec=spec
    )
    samples, train, real = even(4, 110), even(5, 100), even(3, 130)
    config = {"evaluate": {"features": ()}, "model": {}}
    found = sample_metrics.measure(samples.images, samples.labels, config, "test", real_splits=(train, real))
    median = {name: found["neighbours"][name]["quantiles"]["0.5"] for name in ("samples", "held_out")}
    assert median == pytest.approx({"samples": 40 / 255, "held_out": 120 / 255})
    assert found["count"] == 3 and found["trained_on"] == {"count": 0, "of": 3}


def test_pictures_whose_neighbours_are_sought_are_drawn_at_random(monkeypatch):
    """The first ones may be of one class, or of one folder."""
    monkeypatch.setattr(sample_metrics.held_out, "require", lambda *sets: sample_metrics.held_out.TrainedOn(0, 30))
    monkeypatch.setattr(sample_metrics, "NEIGHBOURS", 8)
    sought = []
    monkeypatch.setattr(sample_metrics.neighbours, "copying", lambda *sets: sought.append(sets))
    spec = types.SimpleNamespace(pictures=True, num_classes=0, shape=(1, 1, 1))
    numbered = lambda number: types.SimpleNamespace(
        images=np.arange(number, dtype=np.uint8).reshape(-1, 1, 1, 1), labels=np.zeros(number, int), spec=spec
    )
    samples, train, real = numbered(200), numbered(100), numbered(30)
    config = {"evaluate": {"features": ()}, "model": {}}
    sample_metrics.measure(samples.images, samples.labels, config, "test", real_splits=(train, real))
    ((some, held_out, every),) = sought
    assert len(every) == 100
    for drawn, number in ((some, 200), (held_out, 30)):
        assert len(set(drawn.ravel().tolist())) == 8 and drawn.max() > number / 2


def test_the_share_of_recognised_samples_stands_beside_that_of_held_out_pictures(monkeypatch):
    """By a classifier of the training pictures, which takes a picture for the class that is its number here."""
    taught = []
    cached = lambda images, labels: taught.append((images, labels)) or types.SimpleNamespace(digest="0a")
    monkeypatch.setattr(sample_metrics.classifier, "cached", cached)
    monkeypatch.setattr(sample_metrics.classifier, "predict", lambda net, images: images[:, 0])
    split = lambda numbers, labels: types.SimpleNamespace(images=np.array(numbers)[:, None], labels=np.array(labels))
    samples, train, real = split([0, 1, 1, 0], [0, 1, 0, 0]), split([0, 1], [0, 1]), split([0, 0], [0, 1])
    found = sample_metrics.class_accuracy(samples.images, samples.labels, train, real)
    assert (found["share"], found["count"], found["by_class"]) == (0.75, 4, {"0": pytest.approx(2 / 3), "1": 1})
    assert (found["real"]["share"], found["real"]["count"], found["real"]["by_class"]) == (0.5, 2, {"0": 1, "1": 0})
    assert found["classifier_sha256"] == "0a" and [len(images) for images, _ in taught] == [2]
    assert taught[0][0] is train.images
