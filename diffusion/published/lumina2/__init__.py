"""Lumina-Image 2: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.lumina2 import network as network, pipeline as pipeline, table as table
    from diffusion.published.lumina2.network import Lumina2 as Lumina2

public.declare(__name__)
