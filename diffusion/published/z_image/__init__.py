"""Z-Image: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.z_image import network as network, pipeline as pipeline, table as table
    from diffusion.published.z_image.network import ZImage as ZImage

public.declare(__name__)
