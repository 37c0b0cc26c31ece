"""What the prompts of PixArt-alpha and PixArt-Sigma become: the condition of its network."""

__all__ = ["pixart"]

from collections.abc import Sequence
from typing import Any

from diffusion.text.encoding import Encoder, encode


def pixart(prompts: Sequence[str], t5: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of PixArt, which was trained on captions in lower case.

    Args:
        prompts: B texts.
        t5: T5's encoder, `masked=True`, with a tokenizer of 120 (alpha) or 300 (sigma) tokens.
        **how: further arguments of `encode`.
    """
    embeddings = encode([prompt.lower().strip() for prompt in prompts], t5, **how)
    return {"text": embeddings.tokens, "text_mask": embeddings.mask}
