"""Figures of samples that are symbols: divergences by hand, of the samples and of what stands beside them."""

import numpy as np
import pytest

from diffusion.data.sources import DataSpec
from diffusion.experiments.evaluation import symbol_metrics, vector_metrics
from diffusion.experiments.evaluation.real_images import Split
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.recipe import ConfigError
from diffusion.recipe.defaults import defaults


def split(rows):
    rows = np.int32(rows)
    spec = DataSpec(name="letters", split="test", shape=rows.shape[1:], num_classes=0, size=len(rows), dtype="int32")
    return Split(rows, np.zeros(len(rows), np.int64), spec)


def measured(samples, train, real, draws=0, subsets=3):
    return symbol_metrics.measure(np.int32(samples), defaults(), split(train), split(real), draws, subsets)


def entropy(*shares):
    return -sum(share * np.log2(share) for share in shares if share)


def test_divergences_of_one_and_two_symbols_by_hand():
    """Samples with the symbols 1/4, 3/4 beside real ones with 1/2, 1/2; runs 00, 11, 11, 11 beside 01, 01, 11, 00."""
    found = measured([[0, 0], [1, 1], [1, 1], [1, 1]], [[0, 1], [0, 1]], [[0, 1], [0, 1], [1, 1], [0, 0]])
    values = {name: distance["value"] for name, distance in found["distances"].items()}
    one = entropy(3 / 8, 5 / 8) - (entropy(1 / 4, 3 / 4) + 1) / 2
    two = entropy(3 / 8, 3 / 8, 1 / 4) - (entropy(1 / 2, 1 / 2) + entropy(1 / 2, 1 / 4, 1 / 4)) / 2
    # Two of the four samples are compared: there are two training examples.
    assert found["count"] == 2 and found["reference"] == 4 and found["dimensions"] == 2
    assert values == pytest.approx({"unigram_divergence": 0.0, "bigram_divergence": two})
    found = measured([[0, 0], [1, 1], [1, 1], [1, 1]], [[0, 1]] * 4, [[0, 1], [0, 1], [1, 1], [0, 0]])
    assert found["distances"]["unigram_divergence"]["value"] == pytest.approx(one)


def test_positions_count_together_and_the_report_says_so():
    """Columns of categories in another order have the same symbols, but other runs of two."""
    found = measured([[0, 1]] * 4, [[1, 0]] * 4, [[1, 0]] * 4)["distances"]
    assert {name: figure["value"] for name, figure in found.items()} == pytest.approx(
        {"unigram_divergence": 0, "bigram_divergence": 1}
    )
    assert all("at all positions together" in figure["how"] for figure in found.values())


def test_a_resample_has_the_runs_of_its_rows():
    """Of the rows 01 and 22 the second alone shares no run of two with a real one, the first all."""
    distance = symbol_metrics._divergence(np.array([[0, 1, 0]]), 2, 3)(np.array([[0, 1, 0], [2, 2, 2], [1, 1, 2]]))
    expected = {
        (0,): 0.0,
        (1,): 1.0,
        (2, 2): 1.0,
        (0, 1): entropy(3 / 8, 3 / 8, 1 / 4) - (1 + entropy(1 / 4, 1 / 4, 1 / 2)) / 2,
    }
    for chosen, value in expected.items():
        assert distance(np.array(chosen)) == pytest.approx(value), chosen


def test_floors_of_a_model_with_classes_hold_every_class_alike():
    """Symbol c is class c. Half of each subset is the rare class, a quarter of the training and real sequences."""
    labels = np.array([0, 0, 0, 1] * 6)
    real = split(labels[:, None])._replace(labels=labels)
    samples = np.int32([[0], [1]] * 6)
    found = symbol_metrics.measure(samples, defaults(), real, real, 0, 5, samples[:, 0])["distances"]
    apart = entropy(3 / 8, 5 / 8) - (1 + entropy(1 / 4, 3 / 4)) / 2
    figure = found["unigram_divergence"]
    assert figure["value"] == pytest.approx(apart) and figure["floor"]["mean"] == pytest.approx(apart)
    assert figure["floor"]["std"] == pytest.approx(0, abs=1e-12)


def test_a_symbol_of_the_samples_alone_is_shared_with_nothing():
    """By the real symbols' numbers, below 2, the runs 1 1 and 0 3 would be one."""
    found = measured([[0, 3]] * 4, [[1, 1]] * 4, [[1, 1]] * 4)
    assert [distance["value"] for distance in found["distances"].values()] == pytest.approx([1, 1])


def test_the_floor_is_of_training_examples_and_the_noise_of_all_symbols_alike():
    """Symbols that the training examples alone have count among the noise's, and share nothing with the real ones."""
    rows = 500
    found = measured([[0] * 8] * rows, [[3] * 8] * rows, [[0] * 8] * rows, draws=5)
    assert list(found["distances"]) == ["unigram_divergence", "bigram_divergence", "trigram_divergence"]
    for n, distance in enumerate(found["distances"].values(), 1):
        assert distance["value"] == 0 and distance["interval"] == (0, 0)
        assert distance["floor"] == {"mean": pytest.approx(1), "std": None}  # one subset of all
        share = 0.25**n  # of the noise's runs, which all are the real ones
        mixed = entropy((1 + share) / 2, *[0.25**n / 2] * (4**n - 1))
        assert distance["noise"] == pytest.approx(mixed - 2 * n / 2, abs=0.02), n


@pytest.mark.parametrize("subsets, number", [(2, 2), (4, 3)])
def test_no_more_samples_and_subsets_are_compared_than_of_vectors(monkeypatch, subsets, number):
    monkeypatch.setattr(vector_metrics, "MOST", 5)
    monkeypatch.setattr(vector_metrics, "SUBSETS", 3)
    monkeypatch.setattr(vector_metrics, "compared", lambda distances, chosen, floors, *others: (chosen, floors))
    chosen, floors = measured([[0, 1]] * 8, [[1, 0]] * 9, [[0, 0]] * 7, subsets=subsets)
    np.testing.assert_array_equal(chosen, [[0, 1]] * 5)
    np.testing.assert_array_equal(floors, [[[1, 0]] * 5] * number)


def test_a_sequence_of_one_symbol_has_no_runs_of_two():
    assert list(measured([[0], [1]], [[0], [1]], [[0], [1]])["distances"]) == ["unigram_divergence"]


def test_an_array_of_symbols_is_a_sequence_row_by_row():
    plane = [[[0, 1], [1, 0]]] * 3
    found = measured(plane, plane, [[[0, 1], [1, 0]]])
    assert found["dimensions"] == 4 and all(each["value"] == 0 for each in found["distances"].values())


@pytest.mark.parametrize(
    "samples", [np.zeros((4, 3), np.int32), np.zeros((4, 2), np.float32), np.zeros((1, 2), np.int32)]
)
def test_samples_of_another_form_are_refused(samples):
    real = split([[0, 1]] * 4)
    with pytest.raises(WorkdirError, match=r"letters has symbols, int32 \[N, 2\]; a divergence needs at least 2"):
        symbol_metrics.measure(samples, defaults(), real, real, 0, 2)


def test_symbols_that_were_not_predicted_are_refused():
    """-1 ended in a traceback of numpy's bincount."""
    real = split([[0, 1]] * 4)
    with pytest.raises(WorkdirError, match=r"1 of the 2 samples have the symbol -1, .* returned NaN"):
        symbol_metrics.measure(np.array([[0, 1], [-1, 1]], np.int32), defaults(), real, real, 0, 2)


def test_features_of_pictures_are_refused():
    config = defaults()
    config.evaluate.features = ("pixels", "inception")
    real = split([[0, 1]] * 4)
    with pytest.raises(ConfigError, match=r"'inception', a feature of pictures, .* letters are symbols"):
        symbol_metrics.measure(real.images, config, real, real, 0, 2)
