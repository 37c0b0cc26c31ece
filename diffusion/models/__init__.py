"""Linen backbones. Each is a `Network` once applied: (x_t, t, condition) -> output."""

from diffusion.models import attention, dit, doors, embeddings, flops
from diffusion.models.dit import DiT, check_labels, dit_preset

MODELS = {"dit": DiT}

__all__ = ["MODELS", "DiT", "attention", "check_labels", "dit", "dit_preset", "doors", "embeddings", "flops"]
