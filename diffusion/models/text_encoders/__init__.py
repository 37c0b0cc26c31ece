"""Text encoders: CLIP, SigLIP, T5, the decoders of language models, and BLIP's, which attends to a picture."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.models.text_encoders import clip, decoder, med, siglip_text, t5

__all__ = ["clip", "decoder", "med", "siglip_text", "t5"]

public.declare(__name__)
