"""What the prompts of AuraFlow become: the condition of its network."""

__all__ = ["auraflow"]

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.text.encoding import Encoder, encode


def auraflow(prompts: Sequence[str], pile_t5: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text"} of AuraFlow, whose network attends to zeros in place of the padding.

    Args:
        prompts: B texts.
        pile_t5: Pile-T5's encoder, `masked=True`, with a tokenizer of 256 tokens.
        **how: further arguments of `encode`.
    """
    embeddings = encode(prompts, pile_t5, **how)
    return {"text": jnp.where(jnp.asarray(embeddings.mask)[..., None], embeddings.tokens, 0)}
