"""Diffusion and flow matching in pure JAX: functions that are the published equations."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


def __getattr__(name: str) -> ModuleType:
    """Imports a module when it is first used: one that needs no JAX, such as `diffusion.io.limits`, then loads none."""
    if name in __all__:
        return importlib.import_module(f"diffusion.{name}")
    raise AttributeError(f"module 'diffusion' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
