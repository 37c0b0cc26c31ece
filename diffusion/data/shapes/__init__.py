"""Captioned pictures of coloured shapes as a TFDS dataset that a program draws: text to image without a download."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import tensorflow_datasets as tfds

from diffusion.data.shapes import drawing as drawing, scenes as scenes
from diffusion.io import pictures
from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.data.shapes import (
        arrangements as arrangements,
        motions as motions,
        spoilt as spoilt,
        templates as templates,
    )

__all__ = ["SEED", "SIZES", "TRAIN_SHARES", "Shapes", "example"]

public.declare(__name__)

SEED = 2026
"""Seed of all pictures."""
SIZES = {"train": 20_000, "validation": 1_000, "test": 2_000, "withheld": 1_000}
"""Number of pictures in each split."""
TRAIN_SHARES = scenes.Shares(kinds=(0.34, 0.18, 0.42, 0.06), styles=(0.65, 0.13, 0.22))
"""Shares of kinds and styles in the training split, which has more of those that are learned last: pairs and neon."""


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Pictures of `scenes`, 64 x 64, with captions and all attributes; "withheld" has combinations that train lacks."""

    VERSION = tfds.core.Version("2.1.0")
    RELEASE_NOTES = {  # noqa: RUF012, the name and form that TFDS reads
        "1.0.0": "First version: tilted, and at places with some play.",
        "2.0.0": "Objects upright at nine places.",
        "2.1.0": "More neon and more pairs in train; the other splits are those of 2.0.0.",
    }
    url_infos = None  # nothing to download; looking up checksums needs a package that TFDS does not install

    def _info(self) -> tfds.core.DatasetInfo:
        classes = {
            name: tfds.features.ClassLabel(names=[str(value) for value in values])
            for name, values in scenes.ATTRIBUTES.items()
        }
        image = tfds.features.Image(shape=(drawing.SIDE, drawing.SIDE, 3), encoding_format="png")
        return self.dataset_info_from_configs(
            description=(
                "Coloured shapes, one, several alike or two with a relation, and written words, drawn by a program. "
                "The features beside image and caption are what the picture shows, said or not."
            ),
            features=tfds.features.FeaturesDict({"image": image, "caption": tfds.features.Text(), **classes}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {name: self._generate_examples(name) for name in SIZES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        for number in range(SIZES[split]):
            image, caption, scene = example(split, number)
            # Encoded bytes, since TFDS would import TensorFlow to encode an array.
            values = {name: str(value) for name, value in scene._asdict().items()}
            png = pictures.encoded(image, compress_level=1)  # a third of the time of the default
            yield number, {"image": png, "caption": caption, **values}


def example(split: str, number: int, seed: int = SEED) -> tuple[np.ndarray, str, scenes.Scene]:
    """Picture `number` of a split; it does not depend on which other pictures are drawn.

    Args:
        split: the split, one of `SIZES`.
        number: the picture's number, >= 0.
        seed: the seed of the dataset.

    Returns:
        (the picture, uint8 [64, 64, 3]; its caption; the scene that it shows).
    """
    lot = scenes.Lot(seed, tuple(SIZES).index(split), number)
    shares = TRAIN_SHARES if split == "train" else scenes.SHARES
    scene = scenes.draw(lot, of_withheld=split == "withheld", shares=shares)
    caption = scenes.caption(scene, lot)
    return drawing.draw(scene, lot), caption, scene
