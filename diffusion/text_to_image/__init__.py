"""Generates pictures from prompts with the published models that `diffusion.text_to_image.pipelines` supports."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.text_to_image import (
        model_index as model_index,
        pipelines as pipelines,
        png as png,
        requests as requests,
    )
    from diffusion.text_to_image.additions import (
        with_attachments as with_attachments,
        with_loras as with_loras,
        with_quantised as with_quantised,
        with_words as with_words,
    )
    from diffusion.text_to_image.guided_denoiser import denoise as denoise
    from diffusion.text_to_image.interpolation import between as between
    from diffusion.text_to_image.jobs import (
        Frame as Frame,
        Results as Results,
        frames as frames,
        generate as generate,
        make as make,
        results as results,
        watch as watch,
    )
    from diffusion.text_to_image.loading import described as described, load as load
    from diffusion.text_to_image.model import TextToImage as TextToImage
    from diffusion.text_to_image.picture_controls import Control as Control
    from diffusion.text_to_image.programs import noised as noised
    from diffusion.text_to_image.prompt_conditions import check_words as check_words, conditions as conditions
    from diffusion.text_to_image.regions import Region as Region, Word as Word
    from diffusion.text_to_image.requests import Request as Request

public.declare(__name__)
