"""The pipelines of Lumina-Image 2, and the conditions of their prompts."""

import functools
from collections.abc import Sequence
from typing import Any

from diffusion import guidance
from diffusion.published import pipeline_kinds as kinds
from diffusion.published.lumina2.network import PATCH, Lumina2
from diffusion.text.encoding import Encoder, encode, text_first

SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start> "
)


def lumina2(prompts: Sequence[str], gemma: Encoder, *, instructed: bool = True, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of Lumina-Image 2: Gemma 2's states of the prompt after a system prompt; padding is last.

    Args:
        prompts: B texts.
        gemma: Gemma's states of its last layer but one, `masked=True, layers=(-2,)`, with a tokenizer of 256 tokens.
        instructed: whether the system prompt precedes the prompts; False for negative prompts.
        **how: further arguments of `encode`.
    """
    return text_first(encode(prompts, gemma, before=SYSTEM if instructed else "", **how))


LUMINA2 = kinds.Kind(
    "Lumina2",
    kinds.Prompts(
        (kinds.Reader(how={"masked": True, "layers": (-2,)}, length=256, left=False),), lumina2, instructed=True
    ),
    kinds.Usual(30, 4.0),
    kinds.DenoiserNetwork(Lumina2, multiple=lambda denoiser: PATCH, unit_clock=True),
    kinds.FlowSteps(even=True),
    guidance=kinds.Guidance(functools.partial(guidance.renormalised, axis=-2)),  # along the columns
)
KINDS = {
    "Lumina2Pipeline": LUMINA2,
    "Lumina2Text2ImgPipeline": LUMINA2,  # the first name of the same class
}
