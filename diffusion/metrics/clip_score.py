"""CLIP score: how well images fit their captions, from the embeddings of both.

This module has no weights. Bring two extractors of your own: images uint8 [B, H, W, C] -> embeddings [B, D], and
captions -> [B, D]; `features.rows` gathers the first over all images. Report the network (ViT-B/32 in the paper,
ViT-L/14 in most reports of text-to-image models) and the preprocessing beside the figure.
"""

from typing import NamedTuple

import numpy as np

from diffusion.metrics import bootstrap, pairwise


class ClipScore(NamedTuple):
    """A mean over pairs.

    Attributes:
        value: mean of weight max(cos, 0).
        standard_error: the standard error of the value over draws of the pairs.
        samples: number of pairs N.
    """

    value: float
    standard_error: float
    samples: int


def clip_score(images: np.ndarray, texts: np.ndarray, weight: float = 100.0) -> ClipScore:
    """The mean of weight max(cos(image, text), 0) over pairs.

    Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", eq. 1, where the weight
    is 2.5. The default is 100, as in reports of generative models and in torchmetrics (which cuts the mean at 0, not
    each pair).

    Args:
        images: image embeddings, [N, D], of any length but zero.
        texts: text embeddings, [N, D]; row i is the caption of image i.
        weight: the factor of the cosine, > 0.

    Returns:
        Mean and its standard error (NaN for one pair).

    Raises:
        ValueError: if shapes do not fit, an embedding is not finite or zero, or weight is not positive.
    """
    scores = clip_scores(images, texts, weight)
    return ClipScore(float(scores.mean()), bootstrap.standard_error(scores), len(scores))


def clip_scores(images: np.ndarray, texts: np.ndarray, weight: float = 100.0) -> np.ndarray:
    """weight max(cos(image, text), 0) of each pair, float64 [N]; arguments and errors as `clip_score`."""
    if not weight > 0:
        raise ValueError(f"weight must be positive, got {weight} (100, or 2.5 as in the paper)")
    images = pairwise.checked("images", images)
    texts = pairwise.checked("texts", texts)
    if images.shape != texts.shape:
        raise ValueError(
            f"images and texts must have one embedding each, [B, D] of the same space; got {list(images.shape)} and "
            f"{list(texts.shape)}"
        )
    cosines = (pairwise.unit("images", images) * pairwise.unit("texts", texts)).sum(axis=1)
    return weight * np.maximum(cosines, 0)
