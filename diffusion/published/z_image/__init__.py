"""Z-Image: network, names of weights, conditions of prompts, pipelines."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.published.z_image import (
        conditions as conditions,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.z_image.network import ZImage as ZImage

public.declare(__name__)
