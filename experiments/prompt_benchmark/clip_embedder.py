"""A CLIP model from a folder, as the network of a benchmark that embeds pictures and texts."""

from collections.abc import Sequence

import numpy as np

from diffusion.metrics import picture_scores
from diffusion.metrics.prompt_following.readers import Embedder
from diffusion.models.image_encoders import picture_fitting
from diffusion.recipe import ConfigError
from diffusion.text_to_image import model_index

BATCH = 8  # rows at once, so that one program of each tower serves all


def opened(folder: str) -> tuple[Embedder, str]:
    """The network of a CLIPModel's folder, and the sha256 of that folder.

    Raises:
        ConfigError: if it holds another network.
    """
    try:
        towers = picture_scores.clip_towers(folder)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"--clip={folder}: {error}") from error

    def pictures(images: Sequence[np.ndarray]) -> np.ndarray:
        fitted = [picture_fitting.cropped(picture, towers.side) for picture in images]
        return _in_batches(fitted, lambda rows: towers.images(np.stack(rows)))

    return Embedder(pictures, lambda texts: _in_batches(list(texts), towers.texts)), model_index.fingerprint(folder)


def _in_batches(rows: list, embed) -> np.ndarray:
    parts = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        parts.append(embed(part + [part[-1]] * (BATCH - len(part)))[: len(part)])
    return np.concatenate(parts)
