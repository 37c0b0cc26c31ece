"""What the prompts of LTX-Video become: the condition of its network."""

__all__ = ["ltx_video"]

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from diffusion.text.encoding import Encoder, encode


def ltx_video(prompts: Sequence[str], t5: Encoder, **how: Any) -> dict[str, Any]:
    """{"text", "text_mask"} of LTX-Video, whose network does not see the padding; its T5 does, before 0.9.5.

    Args:
        prompts: B texts.
        t5: T5's encoder with a tokenizer of 128 tokens; for 0.9.5 and later `masked=True`, with 256 tokens.
        **how: further arguments of `encode`.
    """
    embeddings = encode(prompts, t5, **how)
    return {"text": embeddings.tokens, "text_mask": jnp.asarray(embeddings.mask)}
