"""Classifier accuracy score: the accuracy on real images of a classifier that is trained only on samples."""

import pathlib
from typing import NamedTuple

import numpy as np

from diffusion.metrics import bootstrap, classifier


class Accuracy(NamedTuple):
    """Accuracy on real images of a classifier trained on samples.

    Attributes:
        value: share of real images whose label is predicted, in [0, 1].
        interval: its 95 % interval over draws of the real images (Wilson), with the classifier fixed.
        by_class: label -> share of the real images of that label; the classes that a model misses show here.
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

    Ravuri and Vinyals 2019, "Classification Accuracy Score for Conditional Generative Models". The paper has a
    ResNet-50 on ImageNet. Here it is the small network of `classifier`, so that only figures of this network compare.
    Report the figure of as many real training images beside it, which is the ceiling. The score punishes a model that
    drops modes or ignores its condition; it does not detect copies.

    Args:
        samples: uint8 [N, H, W, C], generated images.
        labels: int [N] in 0..K-1, the requested class of each.
        test_images: uint8 [M, H, W, C], real images that neither the model nor the classifier has seen, M >= 1.
        test_labels: int [M] in 0..K-1.
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
