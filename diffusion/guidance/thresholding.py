"""Dynamic thresholding of the clean estimate."""

import math

import jax.numpy as jnp
from jax import Array

from diffusion.arrays.broadcasting import flattened
from diffusion.arrays.parameters import traced
from diffusion.guidance.prediction_changes import replace_x0
from diffusion.parameterizations import Denoiser, checked
from diffusion.parameterizations.sampled_process import belonging_to, check_process
from diffusion.schedules import NoiseSchedule, left_broadcast


def dynamic_threshold(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    percentile: float = 0.995,
    maximum: float = math.inf,
    real: Array | None = None,
) -> Denoiser:
    """Rescales an estimate of the data that leaves [-1, 1] back into this range.

        s = min(maximum, max(1, percentile of |x0| over an example))
        x0 <- clip(x0, -s, s) / s,    eps <- (x_t - alpha x0) / sigma

    The new eps makes the method act also in samplers that use eps; at sigma = 0, eps is unchanged.

    Facts:
        nfe: 1 call of the denoiser
        neutral: an estimate within [-1, 1] is exactly unchanged
        paper: Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding",
            section 2.3 and appendix D.6

    Args:
        denoise: the denoiser, guided or not, for data in [-1, 1].
        schedule: the process.
        percentile: share of an example's values that remain unclipped, in (0, 1]; 0.995 in the paper.
        maximum: largest s, >= 1; no limit in the paper. With 1, values are clipped to [-1, 1] without rescaling. It is
            called `sample_max_value` in diffusers' schedulers, where the default is 1.
        real: Bool mask of x, False on padding, see `diffusion.padding`; the percentile is then over the real values.
            None if no value is padding.

    Raises:
        ValueError: if percentile is not in (0, 1], or maximum is below 1.
    """
    check_process(denoise, schedule)
    if not traced(percentile) and not 0 < percentile <= 1:
        raise ValueError(f"dynamic_threshold: percentile = {percentile} must be in (0, 1] (0.995 in the paper)")
    if not traced(maximum) and not maximum >= 1:
        raise ValueError(f"dynamic_threshold: maximum = {maximum} must be at least 1, the largest value of the data")

    def thresholded(x_t, t):
        prediction = checked(denoise)(x_t, t)
        x0 = prediction.x0
        size = flattened(jnp.abs(x0))
        if real is None:
            largest = jnp.quantile(size, percentile, axis=1)
        else:  # s is 1 for an example without real values
            some = jnp.broadcast_to(left_broadcast(real, x0), x0.shape).reshape(size.shape)
            largest = jnp.nan_to_num(jnp.nanquantile(jnp.where(some, size, jnp.nan), percentile, axis=1), nan=1.0)
        s = left_broadcast(jnp.clip(largest, 1, maximum), x0)
        return replace_x0(prediction, schedule, t, jnp.clip(x0, -s, s) / s)

    return belonging_to(schedule, thresholded)
