"""Scikit-learn's handwritten digits as a TFDS dataset, so that a first run needs no download."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from diffusion.io import pictures

# In every class the first 70 % of a fixed random order train, the next 10 % validate, the last 20 % test. The order is
# random, not regular, so that train and test are independent samples, as the floor of a Frechet distance supposes. Of
# the keys 0 to 100 number 59 has the median distance from train to test (pixels in [-1, 1]): a typical split.
ORDER_KEY = 59
FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}


class Digits(tfds.core.GeneratorBasedBuilder):
    """The 1,797 digits of scikit-learn, 8x8 grey, in one fixed stratified split into train, validation and test."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012, the name and form that TFDS reads
    url_infos = None  # nothing to download; looking up checksums needs a package that TFDS does not install

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=(
                "Handwritten digits 0-9 of 13 writers, 8x8 pixels of 17 grey values (0-16, here scaled to 0-255): the "
                "test part of Alpaydin & Kaynak's Optical Recognition of Handwritten Digits, as in scikit-learn."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {name: self._generate_examples(name) for name in FRACTIONS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        images, labels, splits = digits()
        for key in np.flatnonzero(splits == split).tolist():
            # Encoded bytes, since TFDS would import TensorFlow to encode an array.
            yield key, {"image": pictures.encoded(images[key, ..., 0]), "label": int(labels[key])}


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns scikit-learn's digits with the split that each belongs to.

    Returns:
        images [1797, 8, 8, 1] uint8, scikit-learn's value v in 0..16 as round(255 v / 16); labels [1797] int64 in 0..9;
        splits [1797] str, "train", "validation" or "test" by `ORDER_KEY` and `FRACTIONS`.
    """
    import sklearn.datasets  # takes a second, and only the first use of the dataset needs it

    values, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = np.round(values * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    # The raw words of a Philox generator are the same in every version of NumPy; its permutations need not be.
    order = np.argsort(np.random.Philox(key=ORDER_KEY).random_raw(len(labels)), kind="stable")
    splits = np.empty(len(labels), dtype="U10")
    ends = np.cumsum(list(FRACTIONS.values()))[:-1]
    for label in range(10):
        rows = order[labels[order] == label]
        for name, part in zip(FRACTIONS, np.split(rows, np.rint(ends * len(rows)).astype(int))):
            splits[part] = name
    return images, labels, splits
