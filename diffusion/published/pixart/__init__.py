"""PixArt-alpha and PixArt-Sigma: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.pixart import (
        control_net as control_net,
        control_net_table as control_net_table,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.pixart.control_net import PixArtControlNet as PixArtControlNet
    from diffusion.published.pixart.network import PixArt as PixArt, PixArtBlock as PixArtBlock

public.declare(__name__)
