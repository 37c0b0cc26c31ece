"""Adapters: small pytrees beside a network's parameters, and functions that put the one into the other."""

from diffusion.adapters import lora

__all__ = ["lora"]
