"""Qwen 2.5 VL: a language model that sees pictures, its image tower, and the names of both."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.published.qwen_vl import network as network, picture_sizes as picture_sizes, table as table
    from diffusion.published.qwen_vl.network import QwenVision as QwenVision, QwenVL as QwenVL

public.declare(__name__)
