"""What the prompts of Z-Image become: the condition of its network."""

__all__ = ["z_image"]

from collections.abc import Sequence
from typing import Any

from diffusion.text.encoding import Encoder, encode, text_first
from diffusion.text.qwen_chat import ANSWER, USER


def z_image(prompts: Sequence[str], qwen: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of Z-Image: what a user says to Qwen 3, up to where the answer begins; padding stands last.

    Args:
        prompts: B texts.
        qwen: Qwen's states of its last layer but one, `masked=True, layers=(-2,)`, with a tokenizer of 512 tokens.
        **how: further arguments of `encode`.
    """
    return text_first(encode(prompts, qwen, before=USER, behind=ANSWER, **how))
