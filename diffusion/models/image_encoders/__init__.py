"""Image encoders that others have trained, and one of clips: images -> features of their patches and of the whole."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.models.image_encoders import (
        blip,
        convnext,
        dinov2,
        dinov3,
        ijepa,
        image_features,
        mae,
        picture_fitting,
        siglip,
        videomae,
    )

__all__ = [
    "blip",
    "convnext",
    "dinov2",
    "dinov3",
    "ijepa",
    "image_features",
    "mae",
    "picture_fitting",
    "siglip",
    "videomae",
]

public.declare(__name__)
