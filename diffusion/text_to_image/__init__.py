"""From a prompt to a picture, by any of the published models that `diffusion.text_to_image.pipelines` reads."""

from diffusion.text_to_image.generate import Frame, frames, generate, make, watch
from diffusion.text_to_image.model import TextToImage, conditions, load, with_loras
from diffusion.text_to_image.programs import denoise, noised
from diffusion.text_to_image.requests import Request

__all__ = [
    "Frame", "Request", "TextToImage", "conditions", "denoise", "frames", "generate", "load", "make", "noised", "watch",
    "with_loras",
]  # fmt: skip
