"""Inversion of a picture to its initial noise, from which a watermark is read."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion import samplers, timesteps
from diffusion.parameterizations import Denoiser
from diffusion.samplers import Clip
from diffusion.schedules import NoiseSchedule, check_schedule


def initial_noise(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    x: Array,
    grid: ArrayLike,
    keys: Array,
    iterations: int = 1,
    clip: Clip | None = None,
) -> Array:
    """The noise from which a deterministic sampler generates x, on the scale of N(0, 1), by DDIM inversion.

    The inversion goes up along the grid to the noisiest time with alpha > 0. If this is not the first time of the grid,
    the result is the noise that the network predicts there, as in a DDIM step to alpha = 0.

    Args:
        denoise: (x_t, t) -> Prediction. For watermarks use the unconditional denoiser without guidance, because the
            picture's prompt or class is not known.
        schedule: the process.
        x: the pictures or latents `[B, ...]`.
        grid: `[N + 1]` decreasing times on which x was sampled.
        keys: random keys `[B]`.
        iterations: number of evaluations per step, >= 1, see `samplers.ddim_inversion`.
        clip: the field `sampler.clip` of the sampler that generated x. If that sampler keeps eps, the noise of clipped
            values cannot be recovered.

    Returns:
        The initial noise `[B, ...]`.
    """
    check_schedule(schedule)
    up = np.asarray(grid, np.float64)[::-1]
    with jax.ensure_compile_time_eval():
        alpha = np.asarray(schedule.alpha(jnp.asarray(up)))
    within = up[alpha > 0]
    if clip is None or clip.keeps_eps:
        inversion = samplers.ddim_inversion(iterations, clip and clip.largest)
    else:
        inversion = samplers.clipped(samplers.ddim_inversion(iterations), clip.largest, keeps_eps=False)
    noisy = samplers.sample(inversion, denoise, schedule, x, timesteps.plan(within), keys)
    last = jnp.asarray(within[-1], noisy.dtype)
    if len(within) < len(up):
        return denoise(noisy, last).eps
    return noisy / jnp.hypot(schedule.alpha(last), schedule.sigma(last))
