"""Image encoders that others have trained, and one of clips: images -> features of their patches and of the whole."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.models.image_encoders import (
        blip as blip,
        convnext as convnext,
        dinov2 as dinov2,
        dinov3 as dinov3,
        ijepa as ijepa,
        image_features as image_features,
        mae as mae,
        picture_fitting as picture_fitting,
        plain_vit as plain_vit,
        prompt_features as prompt_features,
        siglip as siglip,
        videomae as videomae,
    )

public.declare(__name__)
