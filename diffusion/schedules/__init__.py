"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps, with data at t = 0 and noise growing with t.

A schedule is a `NoiseSchedule`, a tuple of elementwise functions of t. Everything else in the library reads the
process through them alone. In every schedule t = 0 is the data: alpha(0) = 1, sigma(0) = 0 and log_snr(0) = +inf, so
that a sampling plan can end at the clean sample whatever `t_min` is.
"""

from diffusion import public
from diffusion.schedules.coefficients import from_alpha_sigma
from diffusion.schedules.cosine import cosine, sigmoid
from diffusion.schedules.derived import interpolated, shifted, zero_terminal_snr
from diffusion.schedules.discrete import from_betas, linear_beta, scaled_linear
from diffusion.schedules.flow import rectified_flow, trigonometric
from diffusion.schedules.leaves import per_leaf
from diffusion.schedules.log_snr import from_log_snr, init_learned, learned
from diffusion.schedules.noise_schedule import (
    NoiseSchedule,
    Trained,
    at_each,
    check_schedule,
    left_broadcast,
    preserves_variance,
)
from diffusion.schedules.variance_exploding import edm, variance_exploding
from diffusion.schedules.variance_preserving import sub_vp, variance_preserving

__all__ = [
    "NoiseSchedule",
    "Trained",
    "at_each",
    "check_schedule",
    "cosine",
    "edm",
    "from_alpha_sigma",
    "from_betas",
    "from_log_snr",
    "init_learned",
    "interpolated",
    "learned",
    "left_broadcast",
    "linear_beta",
    "per_leaf",
    "preserves_variance",
    "rectified_flow",
    "scaled_linear",
    "shifted",
    "sigmoid",
    "sub_vp",
    "trigonometric",
    "variance_exploding",
    "variance_preserving",
    "zero_terminal_snr",
]

public.declare(__name__)
