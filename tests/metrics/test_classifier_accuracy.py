"""Classifier accuracy score: good samples teach, wrong labels do not, and a missing mode shows in its class."""

import types

import numpy as np
import pytest

from diffusion.metrics import bootstrap, classifier
from diffusion.metrics.classifier_accuracy import classifier_accuracy


def bars(count, seed):
    """Two classes that a few steps tell apart: a bright upper or lower half."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 80, (count, 4, 4, 1)).astype(np.uint8)
    for image, label in zip(images, labels):
        image[label * 2 : label * 2 + 2] += 150
    return images, labels


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A dozen steps teach as much as 600 here."""
    train = classifier.train
    monkeypatch.setattr(classifier, "train", lambda images, labels, seed=0: train(images, labels, seed, steps=12))
    monkeypatch.setattr(classifier, "_in_memory", {})


@pytest.mark.extended
def test_samples_teach_what_their_labels_say(tmp_path):
    samples, labels = bars(64, 0)
    test_images, test_labels = bars(50, 1)
    good = classifier_accuracy(samples, labels, test_images, test_labels, seed=3, folder=tmp_path)
    assert good.value > 0.9
    assert good.interval == bootstrap.wilson_interval(round(50 * good.value), 50)
    assert (good.samples, good.test, good.seed) == (64, 50, 3) and len(good.digest) == 64
    counts = np.bincount(test_labels)
    assert sum(good.by_class[label] * counts[label] for label in (0, 1)) == pytest.approx(50 * good.value)
    swapped = classifier_accuracy(samples, 1 - labels, test_images, test_labels, seed=3, folder=tmp_path)
    assert swapped.value < 0.1  # it is the requested labels that are learnt, and the real ones that are tested
    assert swapped.digest != good.digest
    lower = test_images.copy()  # its pictures of class 0 that look like those of class 1
    lower[test_labels == 0] = test_images[test_labels == 1][0]
    found = classifier_accuracy(samples, labels, lower, test_labels, seed=3, folder=tmp_path).by_class
    assert found[0] < 0.1 and found[1] > 0.9


def test_the_share_its_interval_and_its_classes_are_counts_of_the_test_images(monkeypatch, tmp_path):
    """With a network that is right about six of eight."""
    asked = []
    net = types.SimpleNamespace(digest="d")
    monkeypatch.setattr(classifier, "cached", lambda *arguments: asked.append(arguments) or net)
    monkeypatch.setattr(classifier, "predict", lambda net, images: np.array([0, 0, 0, 1, 1, 1, 1, 0]))
    samples, test_images, test_labels = np.zeros((5, 4, 4, 1), np.uint8), np.zeros((8, 4, 4, 1)), np.arange(8) // 4
    labels = np.array([0, 1, 0, 1, 1])
    accuracy = classifier_accuracy(samples, labels, test_images, test_labels, seed=3, folder=tmp_path)
    assert asked == [(samples, labels, 3, tmp_path)]
    assert (accuracy.value, accuracy.by_class) == (0.75, {0: 0.75, 1: 0.75})
    assert accuracy.interval == bootstrap.wilson_interval(6, 8)
    assert (accuracy.samples, accuracy.test, accuracy.seed, accuracy.digest) == (5, 8, 3, "d")


def test_bad_input(tmp_path):
    samples, labels = bars(20, 0)
    with pytest.raises(ValueError, match=r"the labels \[2\], but no sample has"):
        classifier_accuracy(samples, labels, samples, np.where(np.arange(20) == 4, 2, labels), folder=tmp_path)
    with pytest.raises(ValueError, match=r"\[20, 4, 4, 1\] and \[19\]"):
        classifier_accuracy(samples, labels, samples, labels[1:], folder=tmp_path)
    with pytest.raises(ValueError, match=r"\[0, 4, 4, 1\] and \[0\]"):
        classifier_accuracy(samples, labels, samples[:0], labels[:0], folder=tmp_path)
    with pytest.raises(TypeError, match="uint8"):
        classifier_accuracy(samples / 255, labels, samples, labels, folder=tmp_path)
