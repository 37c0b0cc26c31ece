"""Stable Diffusion 1, 2 and XL: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.stable_diffusion import (
        control_net as control_net,
        control_net_table as control_net_table,
        network as network,
        pipeline as pipeline,
        t2i_adapter as t2i_adapter,
        t2i_adapter_table as t2i_adapter_table,
        table as table,
    )
    from diffusion.published.stable_diffusion.control_net import ControlNet as ControlNet
    from diffusion.published.stable_diffusion.network import ConditionalUNet as ConditionalUNet, Layers as Layers
    from diffusion.published.stable_diffusion.t2i_adapter import T2IAdapter as T2IAdapter

public.declare(__name__)
