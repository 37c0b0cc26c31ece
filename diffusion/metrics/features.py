"""Feature extractors: functions from images, uint8 [B, H, W, C], to features [B, D].

A new extractor needs a factory in this module, and a line in FEATURES.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion.arrays.arguments import is_count
from diffusion.metrics import classifier, frechet, inception, protocols


class Extractor(NamedTuple):
    """A feature extractor, and its record for a report.

    Attributes:
        extract: images uint8 [B, H, W, C] -> features [B, D], finite real numbers.
        record: the description ("features"), the unit ("unit"), and the sha256 of the weights ("sha256"; None for an
            extractor without weights).
        keep: whether the features of real images are worth keeping on disk (`references.gather`).
    """

    extract: Callable[[np.ndarray], np.ndarray]
    record: dict
    keep: bool = False


def pixels(images: np.ndarray | None, labels: np.ndarray | None) -> Extractor:
    """The pixels of an image as features, numbers in [0, 1] (byte / 255).

    Args:
        images: not used, and may be None; other factories take the real training images.
        labels: not used, and may be None.

    Returns:
        The extractor, with D = H W C.
    """
    del images, labels
    extract = lambda batch: batch.reshape(len(batch), -1).astype(np.float32) / 255
    return Extractor(extract, {"features": "pixels, flattened", "unit": "[0, 1]", "sha256": None})


def classifier_features(images: np.ndarray, labels: np.ndarray) -> Extractor:
    """The last hidden layer of a small classifier that is trained on real images (`classifier.cached`).

    Args:
        images: the real training images, uint8 [N, H, W, C].
        labels: the classes of the images, int [N].

    Returns:
        The extractor, with D = 64.

    Raises:
        TypeError, ValueError: under the conditions of `classifier.train`.
    """
    net = classifier.cached(images, labels)
    record = {"features": "last hidden layer of the classifier", "unit": "its activations", "sha256": net.digest}
    return Extractor(lambda batch: classifier.features(net, batch), record)


@functools.lru_cache(maxsize=2)
def inception_features(path: str, protocol: str) -> Extractor:
    """The 2048 features of FID's Inception-v3; the Frechet distance between such features is FID.

    Args:
        path: the file of the network's weights.
        protocol: the protocol by which images are prepared, a name of `protocols.PROTOCOLS`.

    Returns:
        The extractor, with D = 2048.

    Raises:
        WeightsError: if the file does not hold the network with which published figures were computed.
        ValueError: if there is no such protocol.
    """
    net = inception.load(path)
    chosen = protocols.get(protocol)
    inception.require_known(net)
    prepare = functools.partial(protocols.preprocess, chosen)
    record = {
        "features": "Inception-v3, 2048 averages of the last block",
        "unit": "its activations",
        "sha256": net.digest,
        "resize": chosen.resize,
        "scaling": chosen.scaling,
    }
    return Extractor(lambda batch: inception.extract(net.params, batch, prepare=prepare)["2048"], record, keep=True)


FEATURES: dict[str, Callable[[np.ndarray, np.ndarray], Extractor]] = {
    "pixels": pixels,
    "classifier": classifier_features,
}


def names() -> tuple[str, ...]:
    """The names of the extractors that a config can state; "inception" also needs a file of weights."""
    return (*FEATURES, "inception")


def moments(extract: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch_size: int = 500) -> frechet.Moments:
    """The moments of the features of all images, which are computed batch by batch; the last batch may be smaller.

    Args:
        extract: images -> features [B, D].
        images: uint8 [N, H, W, C], N >= 1.
        batch_size: images in one call, >= 1.

    Raises:
        ValueError: if there is no image, a feature is not finite, or batch_size is below 1.
    """
    _check_size(batch_size)
    if len(images) == 0:
        raise ValueError("features need at least one image")
    total = frechet.moments(extract(images[:batch_size]))
    for start in range(batch_size, len(images), batch_size):
        total = frechet.update(total, extract(images[start : start + batch_size]))
    return total


def rows(extract: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch_size: int = 500) -> np.ndarray:
    """Features of all images, one row each.

    Args:
        extract: images -> features [B, D].
        images: uint8 [N, H, W, C], N >= 1.
        batch_size: images in one call, >= 1.

    Returns:
        Features [N, D], in the dtype of the extractor.

    Raises:
        ValueError: if batch_size is below 1.
    """
    _check_size(batch_size)
    return np.concatenate([extract(images[i : i + batch_size]) for i in range(0, len(images), batch_size)])


def _check_size(batch_size: int) -> None:
    if not is_count(batch_size):
        raise ValueError(f"batch_size = {batch_size} must be an integer of at least 1")
