"""AuraFlow: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.auraflow import network as network, pipeline as pipeline, table as table
    from diffusion.published.auraflow.network import AuraFlow as AuraFlow

public.declare(__name__)
