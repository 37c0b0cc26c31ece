"""Diffusion and flow matching in pure JAX: functions that are the published equations."""

from diffusion import (
    couplings,
    guidance,
    objectives,
    parameterizations,
    samplers,
    schedules,
    timesteps,
    weightings,
)

__version__ = "0.1.0"

__all__ = [
    "couplings",
    "guidance",
    "objectives",
    "parameterizations",
    "samplers",
    "schedules",
    "timesteps",
    "weightings",
]
