"""From a prompt to a picture, by any of the published models that `diffusion.text_to_image.pipelines` reads."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.text_to_image import model_index, pipelines, png, requests
    from diffusion.text_to_image.additions import with_attachments, with_loras, with_quantised, with_words
    from diffusion.text_to_image.guided_denoiser import denoise
    from diffusion.text_to_image.interpolation import between
    from diffusion.text_to_image.jobs import Frame, frames, generate, make, watch
    from diffusion.text_to_image.loading import described, load
    from diffusion.text_to_image.model import TextToImage
    from diffusion.text_to_image.picture_controls import Control
    from diffusion.text_to_image.programs import noised
    from diffusion.text_to_image.prompt_conditions import check_words, conditions
    from diffusion.text_to_image.regions import Region, Word
    from diffusion.text_to_image.requests import Request

__all__ = [
    "Control", "Frame", "Region", "Request", "TextToImage", "Word", "between", "check_words", "conditions", "denoise",
    "described", "frames", "generate", "load", "make", "model_index", "noised", "pipelines", "png", "requests", "watch",
    "with_attachments", "with_loras", "with_quantised", "with_words",
]  # fmt: skip

public.declare(
    __name__,
    {
        "additions": ("with_attachments", "with_loras", "with_quantised", "with_words"),
        "prompt_conditions": ("check_words", "conditions"),
        "picture_controls": ("Control",),
        "guided_denoiser": ("denoise",),
        "interpolation": ("between",),
        "jobs": ("Frame", "frames", "generate", "make", "watch"),
        "loading": ("described", "load"),
        "model": ("TextToImage",),
        "programs": ("noised",),
        "regions": ("Region", "Word"),
        "requests": ("Request",),
    },
)
