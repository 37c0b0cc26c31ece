"""Classifier accuracy score: the accuracy on real images of a classifier that is trained only on samples."""

import pathlib
from typing import NamedTuple

import numpy as np

from diffusion.metrics import bootstrap, classifier


class Accuracy(NamedTuple):
    """The accuracy on real images of a classifier trained on samples.

    Attributes:
        value: share of real images whose label is predicted correctly, in [0, 1].
        interval: Wilson's 95 % interval of the share, over draws of the real images, with the classifier fixed.
        by_class: {label: the share among the real images with this label}; it reveals classes that the model misses.
        samples: number of generated training images.
        test: number of real test images.
        seed: the seed of the training.
        digest: the classifier's digest.
    """

    value: float
    interval: tuple[float, float]
    by_class: dict[int, float]
    samples: int
    test: int
    seed: int
    digest: str


def classifier_accuracy(
    samples: np.ndarray,
    labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    seed: int = 0,
    folder: pathlib.Path | str | None = None,
) -> Accuracy:
    """Trains a classifier on samples with their requested labels, and tests it on real held-out images.

    Ravuri and Vinyals 2019, "Classification Accuracy Score for Conditional Generative Models". The paper trains a
    ResNet-50 on ImageNet. Here the classifier is the small network of `classifier`, so figures of other classifiers are
    not comparable. Report the figure for an equal number of real training images beside it, as the ceiling. The score
    is low for a model that drops modes or ignores its condition; it does not detect copies.

    Args:
        samples: the generated images, uint8 [N, H, W, C].
        labels: the requested class of each sample, int [N] in 0..K-1.
        test_images: real images that neither the model nor the classifier has seen, uint8 [M, H, W, C], M >= 1.
        test_labels: the classes of the real images, int [M] in 0..K-1.
        seed: the seed of the training.
        folder: the folder where `classifier.cached` keeps the network.

    Raises:
        TypeError: if images are not uint8.
        ValueError: if shapes do not fit, there is no test image, or a test label has no sample.
    """
    test_labels = np.asarray(test_labels)
    if len(test_images) == 0 or test_labels.shape != (len(test_images),):
        raise ValueError(
            f"the test images and labels have the shapes {list(test_images.shape)} and {list(test_labels.shape)}. "
            "Valid: [M, H, W, C] and [M] with M >= 1"
        )
    if not np.isin(test_labels, labels).all():
        missing = np.setdiff1d(test_labels, labels).tolist()
        raise ValueError(f"the test images have the labels {missing}, but no sample has; sample every class")
    net = classifier.cached(samples, labels, seed, folder)
    right = classifier.predict(net, test_images) == test_labels
    by_class = {int(label): float(right[test_labels == label].mean()) for label in np.unique(test_labels)}
    interval = bootstrap.wilson_interval(int(right.sum()), len(right))
    return Accuracy(float(right.mean()), interval, by_class, len(samples), len(right), seed, net.digest)
