"""Times: densities to train on, grids and plans to sample on."""

from diffusion.package import public
from diffusion.timesteps.align_your_steps import align_your_steps as align_your_steps
from diffusion.timesteps.densities import (
    Density as Density,
    beta_density as beta_density,
    cosmap as cosmap,
    dimension_shifted_density as dimension_shifted_density,
    discrete_density as discrete_density,
    from_quantile as from_quantile,
    laplace as laplace,
    log_normal as log_normal,
    logit_normal as logit_normal,
    mode as mode,
    per_frame as per_frame,
    uniform_density as uniform_density,
)
from diffusion.timesteps.discrete_grids import leading as leading, linspace as linspace, trailing as trailing
from diffusion.timesteps.frames import staggered as staggered
from diffusion.timesteps.given_frames import (
    clean_time as clean_time,
    given_frames as given_frames,
    given_pattern as given_pattern,
    held as held,
)
from diffusion.timesteps.grids import (
    beta as beta,
    exponential as exponential,
    karras as karras,
    karras_levels as karras_levels,
    kl_optimal as kl_optimal,
    polynomial as polynomial,
    sigmoid as sigmoid,
    uniform as uniform,
    uniform_log_snr as uniform_log_snr,
)
from diffusion.timesteps.importance import loss_second_moment as loss_second_moment
from diffusion.timesteps.optimal import optimal as optimal
from diffusion.timesteps.plans import Plan as Plan, plan as plan
from diffusion.timesteps.shifts import (
    dimension_shift as dimension_shift,
    dimension_shifted as dimension_shifted,
    flux_shift as flux_shift,
    shift as shift,
)

public.declare(__name__)
