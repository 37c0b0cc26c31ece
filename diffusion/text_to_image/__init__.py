"""From a prompt to a picture, by any of the published models that `diffusion.text_to_image.pipelines` reads."""

from diffusion.text_to_image.generate import (
    Frame,
    TextToImage,
    conditions,
    denoise,
    generate,
    load,
    noised,
    watch,
    with_loras,
)

__all__ = ["Frame", "TextToImage", "conditions", "denoise", "generate", "load", "noised", "watch", "with_loras"]
