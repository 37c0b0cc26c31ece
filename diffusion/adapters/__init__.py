"""Adapters: small pytrees beside a network's parameters, and functions that merge them."""

from diffusion.adapters import lora

__all__ = ["lora"]
