"""Adapters: small pytrees beside a network's parameters, and functions that merge them."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.adapters import lora, lora_files, lora_kinds, lora_names, separation

__all__ = ["lora", "lora_files", "lora_kinds", "lora_names", "separation"]

public.declare(__name__)
