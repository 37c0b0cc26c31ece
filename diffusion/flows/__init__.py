"""Flows: the probability flow of a process, its solvers, the density along it, and networks that jump along it."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.flows import (
        flow_maps as flow_maps,
        likelihood as likelihood,
        ode as ode,
        probability_flow as probability_flow,
    )

public.declare(__name__)
