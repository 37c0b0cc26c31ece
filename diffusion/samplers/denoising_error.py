"""The error of a denoiser as a function of the noise level, for the analytic variance of `ddpm`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_floats, require_keys
from diffusion.parameterizations import Denoiser, checked
from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.schedules.noise_schedule import as_float


def denoising_error(
    denoise: Denoiser, schedule: NoiseSchedule, x_0: Array, times: ArrayLike, keys: Array
) -> Callable[[Array], Array]:
    """Estimates E |x_0 - x0_hat(alpha_t x_0 + sigma_t eps, t)|^2 / D at some times, for `ddpm("analytic")`.

    For a perfect denoiser this is (sigma / alpha)^2 (1 - E |eps_hat|^2 / D), which Analytic-DPM estimates. The error is
    also right for an imperfect denoiser, and is finite where alpha = 0.

    Facts:
        paper: Bao et al. 2022, "Analytic-DPM", section 3.1; Bao et al. 2022, "Estimating the Optimal Covariance with
            Imperfect Mean", for the error in place of the score's norm

    Args:
        denoise: (x_t, t) -> Prediction, for a batch of B.
        schedule: the process.
        x_0: `[B, ...]` clean samples, one batch for all times.
        times: `[T]` times in (0, t_max], in any order: the start times of a plan's steps, or a grid that covers them.
        keys: `[B]` random keys, one for each sample.

    Returns:
        A function log-SNR -> error, linear between the estimates and constant beyond them. It holds for any schedule,
        because the error depends only on the log-SNR.

    Raises:
        TypeError: if the schedule is not a `NoiseSchedule`, or x_0 does not hold floating-point numbers.
        ValueError: if there is not one key for each sample.
    """
    check_schedule(schedule)
    require_floats(x_0, "x_0")
    require_keys(keys, len(x_0), "the error of a denoiser needs one key for each sample")
    times = jnp.sort(jnp.asarray(times, as_float(x_0).dtype))[::-1]

    def at(number_and_time):
        number, t = number_and_time
        draw = lambda key: jax.random.normal(jax.random.fold_in(key, number), x_0.shape[1:], x_0.dtype)
        eps = jax.vmap(draw)(keys)
        x0 = checked(denoise)(schedule.alpha(t) * x_0 + schedule.sigma(t) * eps, t).x0
        return jnp.mean((x_0 - x0) ** 2)

    levels = _finite(schedule.log_snr(times))
    errors = jax.lax.map(at, (jnp.arange(times.size), times))
    return lambda log_snr: jnp.interp(_finite(log_snr), levels, errors)


def _finite(log_snr):
    """Log-SNRs clipped to +-60 for interpolation; beyond, x_t is pure noise or pure data."""
    return jnp.clip(log_snr, -60, 60)
