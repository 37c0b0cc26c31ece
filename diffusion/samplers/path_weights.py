"""Importance weights of whole paths, for an unnormalised density."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.arguments import require_keys, require_shape
from diffusion.arrays.parameters import traced
from diffusion.parameterizations import Denoiser, checked
from diffusion.samplers.gaussian_steps import check_one_variance
from diffusion.samplers.posterior import posterior_mean, posterior_variance, posterior_weight, transition_variance
from diffusion.samplers.sample import keys_of_step, normal
from diffusion.schedules import NoiseSchedule, check_schedule
from diffusion.timesteps import Plan
from diffusion.timesteps.plans import require_plan


def path_weights(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    plan: Plan,
    keys: Array,
    shape: tuple[int, ...],
    log_density: Callable[[Array], Array],
    data_std: float = 1.0,
) -> tuple[Array, Array]:
    """Draws paths x_T, ..., x_0 by a denoiser, with importance weights for the noised unnormalised density gamma:

        x_T ~ N(0, sigma_T^2 I),    p(x_s | x_t) = N(mean of q(x_s | x_t, x0_hat), v I),
        v = Var q(x_s | x_t, x_0) + (alpha_s (1 - SNR_t / SNR_s))^2 r^2,    1 / r^2 = 1 / s^2 + alpha_t^2 / sigma_t^2,
        log w = log gamma(x_0) - log p(x_T) + sum over steps of log q(x_t | x_s) - log p(x_s | x_t).

    For any denoiser, plan and s, the mean of w is an unbiased estimate of the integral of gamma, so the mean of log w
    is a lower bound of the integral's logarithm. Weighted means over x_0 estimate means under gamma. If gamma is a
    Gaussian N(m, s^2 I), the denoiser is exact and alpha_T = 0, every w equals the integral, in any number of steps.

    The paths are constants: log w has derivatives only through the densities along the path. A path costs N evaluations
    of the denoiser and one of gamma.

    Facts:
        paper: Vargas et al. 2023, "Denoising Diffusion Samplers", section 3, the discrete-time weights; Berner et al.
            2024, "An Optimal Control Perspective on Diffusion-Based Generative Modeling", section 3

    Args:
        denoise: the denoiser (x_t, t) -> Prediction.
        schedule: the process.
        plan: the N steps, all towards the data, the last one to t = 0.
        keys: random keys `[B]`.
        shape: shape of one sample.
        log_density: x_0 `[B, ...]` -> log gamma `[B]`.
        data_std: standard deviation s of the data, > 0, from which the variance v of a step is computed.

    Returns:
        (x_0 `[B, ...]`, log w `[B]`).

    Raises:
        TypeError, ValueError: if the schedule, the keys or the log-densities have a wrong type or shape, the plan
            renoises, leaves have a schedule each, or data_std is not positive.
    """
    require_plan(plan)
    check_schedule(schedule)
    check_one_variance("path_weights", schedule)
    require_keys(keys, max(jnp.size(keys), 1), "paths need one key for each sample")
    steps = plan.t.shape[0]
    if plan.solved != steps or not (traced(data_std) or data_std > 0):
        raise ValueError(
            f"path_weights: data_std = {data_std} must be positive, and the plan must not renoise, but "
            f"{steps - plan.solved} of its steps do"
        )
    starts, draws = jax.vmap(jax.random.split, out_axes=1)(keys)
    size = math.prod(shape)
    square = lambda a: jnp.sum(a**2, axis=tuple(range(1, a.ndim)))
    first = normal(starts, 1, jnp.zeros((len(keys), *shape)))[0]
    t, s = (jnp.asarray(times, first.dtype) for times in (plan.t, plan.s))
    sigma = schedule.sigma(t[0])

    @jax.checkpoint
    def step(carry, i):
        x, log_weight = carry
        noise_level, alpha = schedule.sigma(t[i]), schedule.alpha(t[i])
        variance = (data_std * noise_level) ** 2 / ((alpha * data_std) ** 2 + noise_level**2)
        std = jnp.sqrt(
            posterior_variance(schedule, t[i], s[i]) + posterior_weight(schedule, t[i], s[i]) ** 2 * variance
        )
        mean = posterior_mean(schedule, t[i], s[i], x, checked(denoise)(x, t[i]).x0)
        x_s = jax.lax.stop_gradient(mean + std * normal(keys_of_step(draws, i)[0], 1, x)[0])
        forward_std = jnp.sqrt(transition_variance(schedule, t[i], s[i]))
        forward = (x - alpha / schedule.alpha(s[i]) * x_s) / forward_std
        ratio = (square((x_s - mean) / std) - square(forward)) / 2 + size * jnp.log(std / forward_std)
        return (x_s, log_weight + ratio), None

    begin = square(first) / 2 + size * jnp.log(jnp.sqrt(2 * jnp.pi) * sigma)
    (x, log_weight), _ = jax.lax.scan(step, (sigma * first, begin), jnp.arange(steps))
    value = log_density(x)
    require_shape(value, (len(keys),), "the log-densities, one number for each sample,")
    return x, log_weight + value
