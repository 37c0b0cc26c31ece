"""Samplers: named pairs of pure functions, scanned over a plan by `sample`."""

from diffusion import public
from diffusion.samplers.adaptive import AdaptiveStats, adaptive
from diffusion.samplers.ancestral import dpm_2_ancestral, euler_ancestral
from diffusion.samplers.clipped import clipped
from diffusion.samplers.ddpm import ddim, ddpm
from diffusion.samplers.denoising_error import denoising_error
from diffusion.samplers.dpm_solver import dpm_2, dpm_solver_2, dpm_solver_3
from diffusion.samplers.dpmpp import dpmpp_2m, dpmpp_2s, dpmpp_3m
from diffusion.samplers.dpmpp_sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
from diffusion.samplers.edm import edm
from diffusion.samplers.flow_map import consistency, flow_map, tcd
from diffusion.samplers.frames import per_frame
from diffusion.samplers.inversion import bdia, ddim_inversion, edict
from diffusion.samplers.langevin import predictor_corrector, reverse_diffusion
from diffusion.samplers.linear_multistep import deis, lms
from diffusion.samplers.padded import padded
from diffusion.samplers.picard import PicardStats, picard
from diffusion.samplers.pndm import plms, pndm
from diffusion.samplers.restart import Restart, restart_plan
from diffusion.samplers.runge_kutta import euler, heun, midpoint, rk4
from diffusion.samplers.sample import (
    Clip,
    Loop,
    Sampler,
    State,
    Trajectory,
    loop,
    prior,
    sample,
    sample_trajectory,
    sample_with_memory,
    stepwise,
)
from diffusion.samplers.stochastic_interpolant import euler_maruyama, interpolant_sde
from diffusion.samplers.unipc import unipc

__all__ = [
    "AdaptiveStats",
    "Clip",
    "Loop",
    "PicardStats",
    "Restart",
    "Sampler",
    "State",
    "Trajectory",
    "adaptive",
    "bdia",
    "clipped",
    "consistency",
    "ddim",
    "ddim_inversion",
    "ddpm",
    "deis",
    "denoising_error",
    "dpm_2",
    "dpm_2_ancestral",
    "dpm_solver_2",
    "dpm_solver_3",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "edict",
    "edm",
    "euler",
    "euler_ancestral",
    "euler_maruyama",
    "flow_map",
    "heun",
    "interpolant_sde",
    "lms",
    "loop",
    "midpoint",
    "padded",
    "per_frame",
    "picard",
    "plms",
    "pndm",
    "predictor_corrector",
    "prior",
    "restart_plan",
    "reverse_diffusion",
    "rk4",
    "sample",
    "sample_trajectory",
    "sample_with_memory",
    "stepwise",
    "tcd",
    "unipc",
]

public.declare(__name__)
