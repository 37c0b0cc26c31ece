"""Kolors: ChatGLM 3, its text encoder, names of weights, pipelines with conditions of prompts; its U-Net is SDXL's."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.kolors import chat_glm as chat_glm, pipeline as pipeline, table as table
    from diffusion.published.kolors.chat_glm import ChatGLM as ChatGLM

public.declare(__name__)
