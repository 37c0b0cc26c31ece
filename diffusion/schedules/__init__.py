"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps, with data at t = 0 and noise growing with t.

A schedule is a `NoiseSchedule`, a tuple of elementwise functions of t. The rest of the library uses the process only
through these functions. In every schedule t = 0 is the data: alpha(0) = 1, sigma(0) = 0 and log_snr(0) = +inf, so that
a sampling plan can end at the clean sample whatever `t_min` is.
"""

from diffusion.arrays.broadcasting import left_broadcast as left_broadcast
from diffusion.package import public
from diffusion.schedules.coefficients import from_alpha_sigma as from_alpha_sigma
from diffusion.schedules.cosine import cosine as cosine, sigmoid as sigmoid
from diffusion.schedules.derived import (
    ending_at as ending_at,
    interpolated as interpolated,
    shifted as shifted,
    zero_terminal_snr as zero_terminal_snr,
)
from diffusion.schedules.discrete import (
    from_betas as from_betas,
    linear_beta as linear_beta,
    scaled_linear as scaled_linear,
)
from diffusion.schedules.flow import rectified_flow as rectified_flow, trigonometric as trigonometric
from diffusion.schedules.leaves import per_leaf as per_leaf
from diffusion.schedules.log_snr import from_log_snr as from_log_snr, init_learned as init_learned, learned as learned
from diffusion.schedules.noise_schedule import (
    NoiseSchedule as NoiseSchedule,
    Trained as Trained,
    at_each as at_each,
    check_schedule as check_schedule,
    preserves_variance as preserves_variance,
)
from diffusion.schedules.variance_exploding import edm as edm, variance_exploding as variance_exploding
from diffusion.schedules.variance_preserving import sub_vp as sub_vp, variance_preserving as variance_preserving

public.declare(__name__)
