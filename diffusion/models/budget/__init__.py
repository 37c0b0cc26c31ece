"""The cost of a network: operations, memory and communication, by formula or from its trace."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.models.budget import (
        activation_memory as activation_memory,
        collectives as collectives,
        counted_flops as counted_flops,
        flops as flops,
        peak_memory as peak_memory,
    )

public.declare(__name__)
