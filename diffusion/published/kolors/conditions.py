"""What the prompts of Kolors become: the condition of its network."""

__all__ = ["kolors"]

from collections.abc import Sequence
from typing import Any

import jax

from diffusion.text.encoding import Encoder, encode, pooled


def kolors(prompts: Sequence[str], chat_glm: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text", "pooled"} of Kolors, whose network attends to the padding, too.

    Args:
        prompts: B texts.
        chat_glm: ChatGLM, `masked=True, skip=1, norm=False`, with a tokenizer of 256 tokens that pads on the left.
        **how: further arguments of `encode`.
    """
    embeddings = encode(prompts, chat_glm, **how)
    return {"text": embeddings.tokens, "pooled": pooled(embeddings)}
