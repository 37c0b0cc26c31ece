"""Restoration by optimisation: the residual of a denoiser regularises the fit to a measurement."""

__all__ = ["red_diff"]

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffusion.guidance.measurement_guidance import total
from diffusion.package import public
from diffusion.parameterizations import Denoiser, checked
from diffusion.parameterizations.sampled_process import check_process
from diffusion.samplers.sample import keys_of_step, normal
from diffusion.samplers.sample_checks import check_start
from diffusion.schedules import NoiseSchedule
from diffusion.schedules.noise_schedule import as_float
from diffusion.timesteps import Plan
from diffusion.timesteps.plans import require_plan


def red_diff(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    log_likelihood: Callable[[Array], Array],
    x: Array,
    plan: Plan,
    keys: Array,
    optimizer: optax.GradientTransformation,
    *,
    scale: float = 0.25,
) -> Array:
    """RED-diff: one optimizer step for each time of the plan, with the gradient

        -grad log p(y | x) + w (sigma / alpha) (eps(x_t) - eps),    x_t = alpha x + sigma eps,

    where the second term, the network's residual, needs no derivative of the network. The method fits one picture to y;
    it does not sample p(x_0 | y). At alpha = 0 the residual is left out.

    Facts:
        nfe: steps
        paper: Mardani et al. 2023, "A Variational Perspective on Solving Inverse Problems with Diffusion Models",
            algorithm 1; its loss |y - A x|^2 is `guidance.gaussian_likelihood` with the noise_std 2^-0.5

    Args:
        denoise: the denoiser; it need not be differentiable.
        schedule: the process.
        log_likelihood: x `[B, ...]` -> log p(y_b | x_b) `[B]`, such as `guidance.gaussian_likelihood(...)`.
        x: initial pictures `[B, ...]`, such as A^+ y.
        plan: plan whose times t are used from the first to the last, one for each step.
        keys: random keys `[B]`.
        optimizer: the optimizer, `optax.adam(0.1, b2=0.99)` in the paper's code. With one that combines examples, such
            as global clipping, the pictures depend on each other.
        scale: weight w >= 0 of the residual.

    Returns:
        The pictures `[B, ...]`.

    Raises:
        TypeError, ValueError: under the conditions of `samplers.sample`, or if scale is negative.
    """
    require_plan(plan)
    if not scale >= 0:
        raise ValueError(f"red_diff: scale = {scale} must be at least 0")
    check_process(denoise, schedule)
    check_start(x, keys)
    x = as_float(x)
    times = jnp.asarray(plan.t, x.dtype)

    def step(carry, i):
        x, state = carry
        alpha = schedule.alpha(times[i])
        sigma = schedule.sigma(times[i])
        eps = normal(keys_of_step(keys, i)[0], 1, x)[0]
        residual = checked(denoise)(alpha * x + sigma * eps, times[i]).eps - eps
        weight = scale * jnp.where(alpha > 0, sigma / jnp.where(alpha > 0, alpha, 1), 0)
        gradient = weight * residual - jax.grad(total(log_likelihood))(x)
        updates, state = optimizer.update(gradient, state, x)
        return (x + updates, state), None

    return jax.lax.scan(step, (x, optimizer.init(x)), jnp.arange(len(times)))[0][0]


public.declare(__name__)
