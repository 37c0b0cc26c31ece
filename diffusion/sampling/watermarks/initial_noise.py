"""From a picture back to the noise that it was sampled from, in which a watermark is read."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion import samplers, timesteps
from diffusion.parameterizations import Denoiser
from diffusion.samplers import Clip
from diffusion.schedules import NoiseSchedule


def initial_noise(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    x: Array,
    grid: ArrayLike,
    keys: Array,
    iterations: int = 1,
    clip: Clip | None = None,
) -> Array:
    """The noise from which a deterministic sampler makes x, on the scale of N(0, 1): DDIM's inversion.

    It goes up along the grid to its last time with alpha > 0; where that is not the first time of the grid, the last
    step takes the noise that the network predicts there, as DDIM's step to alpha = 0 does.

    Args:
        denoise: (x_t, t) -> Prediction. Watermarks are read without the prompt or the class that made the picture: the
            unconditional one, without guidance.
        schedule: the process.
        x: the pictures or latents `[B, ...]`.
        grid: `[N + 1]` decreasing times, as they were sampled on.
        keys: `[B]`.
        iterations: see `samplers.ddim_inversion`.
        clip: the fact of the sampler that made x, `sampler.clip`. If that sampler keeps eps, the noise of values that
            it has cut off is not found.

    Returns:
        `[B, ...]`.
    """
    up = np.asarray(grid, np.float64)[::-1]
    with jax.ensure_compile_time_eval():
        alpha = np.asarray(schedule.alpha(jnp.asarray(up)))
    within = up[alpha > 0]
    if clip is None or clip.keeps_eps:
        inversion = samplers.ddim_inversion(iterations, clip and clip.largest)
    else:
        inversion = samplers.clipped(samplers.ddim_inversion(iterations), clip.largest, keeps_eps=False)
    noisy = samplers.sample(inversion, denoise, schedule, x, timesteps.plan(within), keys)
    if len(within) < len(up):
        return denoise(noisy, within[-1]).eps
    last = within[-1]
    return noisy / jnp.hypot(schedule.alpha(last), schedule.sigma(last))
