"""Text encoders: CLIP and T5."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.models.text_encoders import clip, t5

__all__ = ["clip", "t5"]

public.declare(__name__)
