"""A cache of features: a frozen encoder's features of the patches of every picture, beside a cache of its latents.

    FOLDER/latents.json ...             the latents
    FOLDER/features/latents.json ...    the features, a cache of the same form

For a cache, features are latents of one row, (1, N, D) for N patches, and the encoder is their autoencoder. If there
are latents of the mirror images too, there are also features of them; a run that draws a view of a picture's latent
draws the same view of its features.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.data import identities, latent_cache, pipeline
from diffusion.data.latent_cache import CacheError, Description, Latents
from diffusion.data.sources.spec import Derived, ManyAtOnce

FOLDER = "features"  # inside the folder of the latents
DTYPE = "float16"  # type on disk and in a batch: 11 bits suffice for a cosine


class Featured(Derived, ManyAtOnce):
    """Latents whose records have "features" `[views, N, D]` beside their own entries."""

    def __init__(self, latents: Latents, features: Latents):
        super().__init__(latents)
        self._features = features

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns many records; errors as for the two caches."""
        both = (pipeline.fetch(source, np.asarray(rows)) for source in (self._of, self._features))
        return [record | {"features": theirs["x"][:, 0, 0]} for record, theirs in zip(*both)]

    def fingerprint(self) -> dict[str, int | str]:
        """The latents' fingerprint, "features": a digest of some features, and "encoder": a digest of its weights."""
        features = self._features
        return super().fingerprint() | {
            "features": features.fingerprint()["sha256"],
            "encoder": features.description.autoencoder["sha256"],
        }


def beside(folder: str | pathlib.Path) -> pathlib.Path:
    """The folder of the features beside the latents in a folder."""
    return pathlib.Path(folder) / FOLDER


def open_beside(folder: str | pathlib.Path, latents: Description) -> Latents:
    """Opens the features beside the latents in a folder.

    Raises:
        FileNotFoundError: if there are none, or a file is missing.
        CacheError: if they are of other pictures than the latents, or of other views; or as `latent_cache.open_cache`.
    """
    if not (beside(folder) / latent_cache.INDEX).is_file():
        raise FileNotFoundError(
            f"{folder} holds latents, but not the features of an encoder beside them. Write them by: diffusion encode "
            f"--encoder=FOLDER --encoder_size=SIDE --data=NAME@SPLIT --out={folder}, with the same --size and --flip "
            "as for the latents"
        )
    features, _ = latent_cache.open_cache(beside(folder))
    description = features.description
    same = description._replace(dataset=latents.dataset, views=latents.views)
    if differs := latent_cache.differences(description, same):
        raise CacheError(
            f"{beside(folder)} holds features of other pictures than the latents beside it (features -> latents): "
            f"{'; '.join(differs)}. Write both by diffusion encode with the same --data, --size and --flip."
        )
    if identities.have_changed(*map(latent_cache.order_of_pictures, (folder, beside(folder)))):
        raise CacheError(
            f"{beside(folder)} holds features of records with other names, or in another order, than the latents "
            "beside it: the data changed between their encodings. Write both again by diffusion encode."
        )
    return features
