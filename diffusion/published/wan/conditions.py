"""What the prompts of Wan 2.1 and 2.2 become: the condition of its network."""

__all__ = ["wan"]

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.text.encoding import Encoder, encode


def wan(prompts: Sequence[str], umt5: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text"} of Wan, whose network attends to zeros behind the text; runs of white space are one space.

    Args:
        prompts: B texts.
        umt5: umT5's encoder, `masked=True`, with a tokenizer of 512 tokens.
        **how: further arguments of `encode`.
    """
    embeddings = encode([" ".join(prompt.split()) for prompt in prompts], umt5, **how)
    return {"text": jnp.where(jnp.asarray(embeddings.mask)[..., None], embeddings.tokens, 0)}
