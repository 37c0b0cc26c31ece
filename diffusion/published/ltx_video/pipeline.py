"""The pipelines of LTX-Video, and the conditions of their prompts."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from diffusion.published import pipeline_kinds as kinds
from diffusion.published.ltx_video.network import LTXVideo
from diffusion.text.encoding import Encoder, encode


def ltx_video(prompts: Sequence[str], t5: Encoder, **how: Any) -> dict[str, Any]:
    """The conditions of prompts for LTX-Video, whose network does not see the padding.

    T5 sees the padding in versions before 0.9.5, and does not see it from 0.9.5 on.

    Args:
        prompts: B texts.
        t5: T5's encoder, with a tokenizer of 128 tokens; for 0.9.5 and later with 256 tokens and `masked=True`.
        **how: further arguments of `encode`.

    Returns:
        {"text": [B, M, E] T5's states, "text_mask": Bool [B, M]}.
    """
    embeddings = encode(prompts, t5, **how)
    return {"text": embeddings.tokens, "text_mask": jnp.asarray(embeddings.mask)}


LTX_CLIPS = kinds.Video(161, (512, 704), 25.0, first=kinds.FirstImage(clean=True))
LTX = kinds.Kind(
    "LTX",
    kinds.Prompts((kinds.Reader(length=128),), ltx_video),
    kinds.Usual(50, 3.0),
    kinds.DenoiserNetwork(LTXVideo, multiple=lambda module: 1),
    kinds.FlowSteps(even=True),
    video=LTX_CLIPS,
)
LTX_CONDITION = LTX._replace(
    prompts=kinds.Prompts((kinds.Reader(how={"masked": True}, length=256),), ltx_video),
    flow=kinds.FlowSteps(bent=True),
    video=LTX_CLIPS._replace(timed=True, first=kinds.FirstImage(clean=True, blur=0.15)),
)
KINDS = {"LTXPipeline": LTX, "LTXImageToVideoPipeline": LTX, "LTXConditionPipeline": LTX_CONDITION}
