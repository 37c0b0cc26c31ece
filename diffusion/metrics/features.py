"""Feature extractors: functions from images, uint8 [B, H, W, C], to features [B, D].

To add one: a factory below, and a line in FEATURES.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion.metrics import classifier, frechet, inception, protocols


class Extractor(NamedTuple):
    """A feature extractor, and its record for a report.

    Attributes:
        extract: images uint8 [B, H, W, C] -> features [B, D], real, finite.
        record: description ("features"), unit, and the sha256 of the weights, if it has weights.
        keep: whether the features of real images are worth keeping on disk (`references.gather`).
    """

    extract: Callable[[np.ndarray], np.ndarray]
    record: dict
    keep: bool = False


def pixels(images: np.ndarray | None, labels: np.ndarray | None) -> Extractor:
    """The image itself, flattened, as numbers in [0, 1] (byte / 255); needs no training images.

    Args:
        images: unused; every factory takes the real training images.
        labels: unused.

    Returns:
        The extractor, with D = H W C.
    """
    del images, labels
    extract = lambda batch: batch.reshape(len(batch), -1).astype(np.float32) / 255
    return Extractor(extract, {"features": "pixels, flattened", "unit": "[0, 1]", "sha256": None})


def classifier_features(images: np.ndarray, labels: np.ndarray) -> Extractor:
    """The last hidden layer of the small classifier of these real images (`classifier.cached`).

    Args:
        images: uint8 [N, H, W, C], real training images.
        labels: int [N].

    Returns:
        The extractor, with D = 64.

    Raises:
        TypeError, ValueError: as in `classifier.train`.
    """
    net = classifier.cached(images, labels)
    record = {"features": "last hidden layer of the classifier", "unit": "its activations", "sha256": net.digest}
    return Extractor(lambda batch: classifier.features(net, batch), record)


@functools.lru_cache(maxsize=2)
def inception_features(path: str, protocol: str) -> Extractor:
    """The 2048 features of FID's Inception-v3, for a Frechet distance that is FID.

    Args:
        path: file of the network.
        protocol: the protocol by which images are prepared, a name of `protocols.PROTOCOLS`.

    Returns:
        The extractor, with D = 2048.

    Raises:
        WeightsError: if the file does not hold the network of the published figures.
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
    """The spaces that a config can name; "inception" needs a file."""
    return (*FEATURES, "inception")


def moments(extract: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch_size: int = 500) -> frechet.Moments:
    """Moments of the features of all images, batch by batch; a smaller last batch counts too.

    Args:
        extract: images -> features [B, D].
        images: uint8 [N, H, W, C], N >= 1.
        batch_size: images in one call.

    Raises:
        ValueError: if there is no image, or a feature is not finite.
    """
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
        batch_size: images in one call.

    Returns:
        [N, D], of the extractor's dtype.
    """
    return np.concatenate([extract(images[i : i + batch_size]) for i in range(0, len(images), batch_size)])
