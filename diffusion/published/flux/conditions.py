"""What the prompts of FLUX.1 become: the condition of its network."""

__all__ = ["flux"]

from collections.abc import Sequence
from typing import Any

import jax

from diffusion.text.encoding import Encoder, encode, pooled


def flux(prompts: Sequence[str], clip: Encoder, t5: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text", "pooled"} of Flux.

    Args:
        prompts: B texts.
        clip: ViT-L's text tower; it reads the first window of a long prompt alone.
        t5: T5's encoder with a tokenizer of 512 (dev) or 256 (schnell) tokens.
        **how: further arguments of `encode`, for T5.
    """
    return {"text": encode(prompts, t5, **how).tokens, "pooled": pooled(encode(prompts, clip))}
