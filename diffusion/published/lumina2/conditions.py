"""What the prompts of Lumina-Image 2 become: the condition of its network."""

__all__ = ["lumina2"]

from collections.abc import Sequence
from typing import Any

from diffusion.text.encoding import Encoder, encode, text_first

SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start> "
)


def lumina2(prompts: Sequence[str], gemma: Encoder, *, instructed: bool = True, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of Lumina-Image 2: what Gemma 2 reads of the prompt behind a system's; padding stands last.

    Args:
        prompts: B texts.
        gemma: Gemma's states of its last layer but one, `masked=True, layers=(-2,)`, with a tokenizer of 256 tokens.
        instructed: whether the system's text stands before the prompts; False for negative prompts.
        **how: further arguments of `encode`.
    """
    return text_first(encode(prompts, gemma, before=SYSTEM if instructed else "", **how))
