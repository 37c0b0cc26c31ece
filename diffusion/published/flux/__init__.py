"""FLUX.1: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.flux import (
        control_lora as control_lora,
        control_net as control_net,
        control_net_table as control_net_table,
        network as network,
        pipeline as pipeline,
        redux as redux,
        redux_prompt as redux_prompt,
        redux_table as redux_table,
        table as table,
    )
    from diffusion.published.flux.control_net import FluxControlNet as FluxControlNet
    from diffusion.published.flux.network import Flux as Flux
    from diffusion.published.flux.redux import Redux as Redux

public.declare(__name__)
