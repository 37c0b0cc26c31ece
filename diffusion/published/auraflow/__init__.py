"""AuraFlow: network, names of weights, conditions of prompts, pipelines."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.published.auraflow import (
        conditions as conditions,
        network as network,
        pipeline as pipeline,
        table as table,
    )
    from diffusion.published.auraflow.network import AuraFlow as AuraFlow

public.declare(__name__)
