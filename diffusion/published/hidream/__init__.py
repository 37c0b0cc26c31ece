"""HiDream-I1: network, names of weights, pipeline."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.hidream import network as network, pipeline as pipeline, table as table
    from diffusion.published.hidream.network import HiDream as HiDream

public.declare(__name__)
