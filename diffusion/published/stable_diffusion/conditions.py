"""What the prompts of Stable Diffusion 1, 2 and XL become: the condition of its network."""

__all__ = ["stable_diffusion", "stable_diffusion_xl"]

from collections.abc import Sequence
from typing import Any

import jax

from diffusion.text.encoding import Encoder, encode, pooled, side_by_side


def stable_diffusion(prompts: Sequence[str], clip: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text"} of SD 1 and 2.

    Args:
        prompts: B texts.
        clip: CLIP's text tower.
        **how: further arguments of `encode`.
    """
    return {"text": encode(prompts, clip, **how).tokens}


def stable_diffusion_xl(prompts: Sequence[str], clip: Encoder, clip_g: Encoder, **how: Any) -> dict[str, jax.Array]:
    """{"text", "pooled"} of SDXL.

    Args:
        prompts: B texts.
        clip: ViT-L's text tower, `skip=1, norm=False`.
        clip_g: ViT-bigG's text tower with its projection, `skip=1, norm=False`.
        **how: further arguments of `encode`.
    """
    both = side_by_side(encode(prompts, clip, **how), encode(prompts, clip_g, **how))
    return {"text": both.tokens, "pooled": pooled(both)}
