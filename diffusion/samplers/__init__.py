"""Samplers: named pairs of pure functions, scanned over a plan by `sample`."""

from diffusion.package import public
from diffusion.samplers.adaptive import AdaptiveStats as AdaptiveStats, adaptive as adaptive
from diffusion.samplers.ancestral import dpm_2_ancestral as dpm_2_ancestral, euler_ancestral as euler_ancestral
from diffusion.samplers.clipped import clipped as clipped
from diffusion.samplers.ddpm import ddim as ddim, ddpm as ddpm
from diffusion.samplers.denoising_error import denoising_error as denoising_error
from diffusion.samplers.dpm_solver import dpm_2 as dpm_2, dpm_solver_2 as dpm_solver_2, dpm_solver_3 as dpm_solver_3
from diffusion.samplers.dpmpp import dpmpp_2m as dpmpp_2m, dpmpp_2s as dpmpp_2s, dpmpp_3m as dpmpp_3m
from diffusion.samplers.dpmpp_sde import (
    dpmpp_2m_sde as dpmpp_2m_sde,
    dpmpp_3m_sde as dpmpp_3m_sde,
    dpmpp_sde as dpmpp_sde,
)
from diffusion.samplers.edm import edm as edm
from diffusion.samplers.flow_map import consistency as consistency, flow_map as flow_map, tcd as tcd
from diffusion.samplers.frames import per_frame as per_frame
from diffusion.samplers.inversion import bdia as bdia, ddim_inversion as ddim_inversion, edict as edict
from diffusion.samplers.langevin import (
    predictor_corrector as predictor_corrector,
    reverse_diffusion as reverse_diffusion,
)
from diffusion.samplers.linear_multistep import deis as deis, lms as lms
from diffusion.samplers.padded import padded as padded
from diffusion.samplers.path_weights import path_weights as path_weights
from diffusion.samplers.picard import PicardStats as PicardStats, picard as picard
from diffusion.samplers.pndm import plms as plms, pndm as pndm
from diffusion.samplers.restart import Restart as Restart, restart_plan as restart_plan
from diffusion.samplers.runge_kutta import euler as euler, heun as heun, midpoint as midpoint, rk4 as rk4
from diffusion.samplers.sample import (
    Clip as Clip,
    Loop as Loop,
    Sampler as Sampler,
    State as State,
    Trajectory as Trajectory,
    loop as loop,
    prior as prior,
    sample as sample,
    sample_trajectory as sample_trajectory,
    sample_with_memory as sample_with_memory,
    stepwise as stepwise,
)
from diffusion.samplers.stochastic_interpolant import (
    euler_maruyama as euler_maruyama,
    interpolant_sde as interpolant_sde,
)
from diffusion.samplers.unipc import unipc as unipc

public.declare(__name__, known_as={"lcm": "consistency"})
