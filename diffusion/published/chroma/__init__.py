"""Chroma: network, names of weights, pipelines with conditions of prompts."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.chroma import pipeline as pipeline, table as table

public.declare(__name__)
