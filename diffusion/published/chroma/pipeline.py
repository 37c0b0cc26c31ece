"""The pipelines of Chroma, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.flux.network import PATCH
from diffusion.text.encoding import Encoder, encode


def chroma(prompts: Sequence[str], t5: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of Chroma, which also attends to the first token of padding after the prompt.

    Args:
        prompts: B texts.
        t5: T5's encoder, `masked=True`, with a tokenizer of 512 tokens.
        **how: further arguments of `encode`.
    """
    embeddings = encode(prompts, t5, **how)
    mask = jnp.asarray(embeddings.mask)
    end = mask.shape[1] - mask[:, ::-1].argmax(1)  # behind the last token; with several windows, the last window's
    return {"text": embeddings.tokens, "text_mask": mask | (jnp.arange(mask.shape[1]) == end[:, None])}


def _objection(denoiser: Any) -> str:
    return "" if getattr(denoiser, "approximator", ()) else "an approximator, but this one has none"


CHROMA = kinds.Kind(
    "Chroma",
    kinds.Prompts((kinds.Reader(how={"masked": True}, length=512),), chroma),
    kinds.Usual(35, 5.0),
    kinds.DenoiserNetwork(multiple=lambda denoiser: PATCH, objection=_objection, unit_clock=True),
    kinds.FlowSteps(even=True),
)
KINDS = {"ChromaPipeline": CHROMA, "ChromaImg2ImgPipeline": CHROMA, "ChromaInpaintPipeline": CHROMA}
