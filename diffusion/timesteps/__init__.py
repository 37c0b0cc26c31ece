"""Times: densities to train on, grids and plans to sample on."""

from diffusion import public
from diffusion.timesteps.align_your_steps import align_your_steps
from diffusion.timesteps.densities import (
    Density,
    beta_density,
    cosmap,
    dimension_shifted_density,
    discrete_density,
    from_quantile,
    laplace,
    log_normal,
    logit_normal,
    mode,
    per_frame,
    uniform_density,
)
from diffusion.timesteps.discrete_grids import leading, linspace, trailing
from diffusion.timesteps.frames import staggered
from diffusion.timesteps.given_frames import clean_time, given_frames, given_pattern, held
from diffusion.timesteps.grids import (
    beta,
    exponential,
    karras,
    karras_levels,
    kl_optimal,
    polynomial,
    sigmoid,
    uniform,
    uniform_log_snr,
)
from diffusion.timesteps.importance import loss_second_moment
from diffusion.timesteps.optimal import optimal
from diffusion.timesteps.plans import Plan, plan
from diffusion.timesteps.shifts import dimension_shift, dimension_shifted, flux_shift, shift

__all__ = [
    "Density",
    "Plan",
    "align_your_steps",
    "beta",
    "beta_density",
    "clean_time",
    "cosmap",
    "dimension_shift",
    "dimension_shifted",
    "dimension_shifted_density",
    "discrete_density",
    "exponential",
    "flux_shift",
    "from_quantile",
    "given_frames",
    "given_pattern",
    "held",
    "karras",
    "karras_levels",
    "kl_optimal",
    "laplace",
    "leading",
    "linspace",
    "log_normal",
    "logit_normal",
    "loss_second_moment",
    "mode",
    "optimal",
    "per_frame",
    "plan",
    "polynomial",
    "shift",
    "sigmoid",
    "staggered",
    "trailing",
    "uniform",
    "uniform_density",
    "uniform_log_snr",
]

public.declare(__name__)
