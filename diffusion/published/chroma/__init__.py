"""Chroma: network, names of weights, conditions of prompts, pipelines."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.published.chroma import conditions as conditions, pipeline as pipeline, table as table

public.declare(__name__)
