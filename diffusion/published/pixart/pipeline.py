"""The pipelines of PixArt-alpha and PixArt-Sigma, and the conditions that their denoisers receive for prompts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.models.layers import layer_masks
from diffusion.published import pipeline_kinds as kinds
from diffusion.text.encoding import Encoder, encode
from diffusion.text.long_prompts import lowered


def pixart(prompts: Sequence[str], t5: Encoder, **how: Any) -> dict[str, Any]:
    """The condition {"text": [B, N, D], "text_mask": Bool [B, N]}; the prompts are in lower case, as in training.

    Args:
        prompts: B texts.
        t5: T5's encoder, `masked=True`, with a tokenizer of 120 (alpha) or 300 (sigma) tokens.
        **how: further arguments of `encode`.
    """
    texts = [lowered(prompt, how.get("windows", False)).strip() for prompt in prompts]
    embeddings = encode(texts, t5, **how)
    return {"text": embeddings.tokens, "text_mask": embeddings.mask}


def perturbed_layers(denoiser: Any) -> np.ndarray:
    """The layer mask [1, depth] of perturbed-attention guidance: the layers 1, 10 to 19, and so on.

    diffusers perturbs every layer whose name begins with "blocks.1", its default.

    Args:
        denoiser: a network with `depth` layers.
    """
    return layer_masks.mask(1, denoiser.depth, [i for i in range(denoiser.depth) if str(i).startswith("1")])


PIXART_ALPHA = kinds.Kind(
    "PixArt",
    kinds.Prompts((kinds.Reader(how={"masked": True}, length=120),), pixart),
    kinds.Usual(20, 4.5),
    guidance=kinds.Guidance(perturbs=perturbed_layers),
)
PIXART_SIGMA = PIXART_ALPHA._replace(prompts=kinds.Prompts((kinds.Reader(how={"masked": True}, length=300),), pixart))
PERTURBED = kinds.Guidance(perturbs=perturbed_layers, perturbed_scale=3.0)
KINDS = {
    "PixArtAlphaPipeline": PIXART_ALPHA,
    "PixArtSigmaPipeline": PIXART_SIGMA,
    "PixArtSigmaPAGPipeline": PIXART_SIGMA._replace(guidance=PERTURBED),
}
