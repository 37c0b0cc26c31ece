"""Text encoders: CLIP, SigLIP, T5, the decoders of language models, and BLIP's, which attends to a picture."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.models.text_encoders import (
        clip as clip,
        decoder as decoder,
        med as med,
        placeholders as placeholders,
        siglip_text as siglip_text,
        t5 as t5,
    )

public.declare(__name__)
