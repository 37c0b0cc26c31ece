"""Diffusion and flow matching in pure JAX: functions that are the published equations."""

from diffusion import (
    conversions,
    couplings,
    editing,
    flow_maps,
    guidance,
    likelihood,
    objectives,
    parameterizations,
    samplers,
    schedules,
    timesteps,
    weightings,
)

__version__ = "0.1.0"

__all__ = [
    "conversions",
    "couplings",
    "editing",
    "flow_maps",
    "guidance",
    "likelihood",
    "objectives",
    "parameterizations",
    "samplers",
    "schedules",
    "timesteps",
    "weightings",
]
