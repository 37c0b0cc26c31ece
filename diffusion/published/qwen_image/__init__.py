"""Qwen-Image: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.qwen_image import (
        edit_pipeline as edit_pipeline,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.qwen_image.network import QwenImage as QwenImage

public.declare(__name__)
