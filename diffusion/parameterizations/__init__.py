"""The meaning of a network's output, and the one place where it becomes a `Prediction(x0, eps)`.

Each parameterization is a tuple of functions of (schedule, t). Samplers, guidance, likelihood and editing see only
predictions, in which alpha(t) x0 + sigma(t) eps = x_t holds.
"""

from diffusion.package import public
from diffusion.parameterizations.clocks import (
    log_sigma as log_sigma,
    noise_level as noise_level,
    reversed_time as reversed_time,
    steps as steps,
    time as time,
)
from diffusion.parameterizations.conversions import denoiser_under as denoiser_under
from diffusion.parameterizations.network_outputs import (
    Clock as Clock,
    Denoiser as Denoiser,
    Network as Network,
    Parameterization as Parameterization,
    Prediction as Prediction,
    check as check,
    check_network as check_network,
    checked as checked,
    denoiser as denoiser,
    evaluate as evaluate,
    predict as predict,
    read_output as read_output,
    reads_alike as reads_alike,
)
from diffusion.parameterizations.targets import (
    clipped_x0 as clipped_x0,
    derivatives as derivatives,
    edm as edm,
    epsilon as epsilon,
    finite_derivatives as finite_derivatives,
    learned_variance as learned_variance,
    score as score,
    v as v,
    velocity as velocity,
    x0 as x0,
)

public.declare(__name__)
