"""What the prompts of CogVideoX become: the condition of its network."""

__all__ = ["cogvideox"]

from collections.abc import Sequence
from typing import Any

import jax

from diffusion.text.encoding import Encoder, encode


def cogvideox(prompts: Sequence[str], t5: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text"} of CogVideoX, which sees the padding, too.

    Args:
        prompts: B texts.
        t5: T5's encoder with a tokenizer of 226 tokens.
        **how: further arguments of `encode`.
    """
    return {"text": encode(prompts, t5, **how).tokens}
