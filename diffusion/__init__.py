"""Diffusion and flow matching in pure JAX: functions that are the published equations."""

from typing import TYPE_CHECKING

from diffusion import namesake, public

if TYPE_CHECKING:
    from diffusion import (
        adapters,
        arguments,
        caching,
        conditional_couplings,
        conversions,
        couplings,
        data,
        editing,
        equivariant_couplings,
        flow_maps,
        guidance,
        io,
        likelihood,
        manifolds,
        metrics,
        models,
        objectives,
        ode,
        padding,
        parameterizations,
        probability_flow,
        proteins,
        pytrees,
        samplers,
        schedules,
        sound,
        text,
        text_to_image,
        timesteps,
        training,
        videos,
        watermarks,
        weightings,
    )

__version__ = "0.1.0"

__all__ = [
    "adapters",
    "arguments",
    "caching",
    "conditional_couplings",
    "conversions",
    "couplings",
    "data",
    "editing",
    "equivariant_couplings",
    "flow_maps",
    "guidance",
    "io",
    "likelihood",
    "manifolds",
    "metrics",
    "models",
    "objectives",
    "ode",
    "padding",
    "parameterizations",
    "probability_flow",
    "proteins",
    "public",
    "pytrees",
    "samplers",
    "schedules",
    "sound",
    "text",
    "text_to_image",
    "timesteps",
    "training",
    "videos",
    "watermarks",
    "weightings",
]

public.declare(__name__)
namesake.warn(__path__[0])
