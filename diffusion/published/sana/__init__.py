"""SANA and SANA-Sprint: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.sana import network as network, pipeline as pipeline, table as table
    from diffusion.published.sana.network import (
        LinearSelfAttention as LinearSelfAttention,
        MixFfn as MixFfn,
        Sana as Sana,
        SanaBlock as SanaBlock,
    )

public.declare(__name__)
