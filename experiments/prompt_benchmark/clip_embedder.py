"""Opens a CLIP model as the embedder of a benchmark's pictures and texts."""

from collections.abc import Sequence

import numpy as np

from diffusion.arrays import chunks
from diffusion.metrics import picture_scores
from diffusion.metrics.prompt_following.readers import Embedder
from diffusion.models.image_encoders import picture_fitting
from diffusion.recipe import ConfigError
from diffusion.text_to_image import model_index

BATCH = 8  # rows of every call, so that each tower is compiled once


def opened(folder: str) -> tuple[Embedder, str]:
    """The embedder of a CLIPModel's folder, and the sha256 of the folder.

    Raises:
        ConfigError: if the folder does not hold a CLIPModel.
    """
    try:
        towers = picture_scores.clip_towers(folder)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"--clip={folder}: {error}") from error

    def pictures(images: Sequence[np.ndarray]) -> np.ndarray:
        fitted = [picture_fitting.cropped(picture, towers.side) for picture in images]
        return chunks.applied(towers.images, np.stack(fitted), BATCH)

    def texts(prompts: Sequence[str]) -> np.ndarray:
        return chunks.applied(lambda rows: towers.texts(list(rows)), np.array(prompts, object), BATCH)

    return Embedder(pictures, texts), model_index.fingerprint(folder)
