"""The cost of a network: operations, memory and communication, by formula or from its trace."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.models.budget import activation_memory, collectives, counted_flops, flops, peak_memory

__all__ = ["activation_memory", "collectives", "counted_flops", "flops", "peak_memory"]

public.declare(__name__)
