"""Stable Diffusion 3 and 3.5: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.stable_diffusion_3 import (
        control_net as control_net,
        control_net_table as control_net_table,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.stable_diffusion_3.control_net import MMDiTControlNet as MMDiTControlNet
    from diffusion.published.stable_diffusion_3.network import MMDiT as MMDiT

public.declare(__name__)
