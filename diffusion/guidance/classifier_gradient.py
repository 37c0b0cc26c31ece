"""Guidance by the gradient of a classifier of noisy samples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_shape
from diffusion.guidance.prediction_changes import slide
from diffusion.guidance.strength import Interval, Scale, check_interval, strength
from diffusion.parameterizations import Denoiser, checked
from diffusion.parameterizations.sampled_process import belonging_to, check_process
from diffusion.schedules import NoiseSchedule, left_broadcast

LogProbability = Callable[[Array, ArrayLike], Array]
"""(x_t `[B, ...]`, t) -> log p(y_b | x_t) `[B]`."""


def classifier(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    log_probability: LogProbability,
    scale: Scale = 1.0,
    interval: Interval = None,
) -> Denoiser:
    """Classifier guidance: score + w grad log p(y | x_t).

        eps - w sigma grad,    x0 + w sigma^2 / alpha grad,    grad = grad_{x_t} log p(y | x_t).

    With the exact p(y | x_t) and w = 1 this is the denoiser of p(x_0 | y). At alpha = 0, where x_t has no information
    about y, the denoiser is unchanged.

    Facts:
        nfe: 1 call of the denoiser and 1 gradient of the classifier
        neutral: w = 0, the denoiser exactly
        paper: Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", eq. 14 and algorithm 2; Song
            et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", section 5

    Args:
        denoise: the denoiser to be guided.
        schedule: the process.
        log_probability: (x_t `[B, ...]`, t) -> log p(y_b | x_t) `[B]`, where number b depends only on example b.
        scale: guidance scale w: a number, `[B]` or a function of t.
        interval: (t_low, t_high) outside which w = 0; None for all times.

    Raises:
        ValueError: if the interval is empty.
    """
    check_process(denoise, schedule)
    check_interval(interval, schedule)

    def guided(x_t, t):
        def total(x):
            log_p = log_probability(x, t)
            require_shape(log_p, x.shape[:1], "log p(y | x_t), one number for each sample,")
            return log_p.sum()

        gradient = jax.grad(total)(x_t)
        weight = strength(scale, 0, interval, t, x_t)
        return shift_score(checked(denoise)(x_t, t), schedule, t, weight * gradient)

    return belonging_to(schedule, guided)


def shift_score(prediction, schedule, t, change):
    """Adds `change` to the score: eps - sigma change, x0 + sigma^2 / alpha change; no change at alpha = 0."""
    alpha = left_broadcast(schedule.alpha(t), change)
    sigma = left_broadcast(schedule.sigma(t), change)
    some = alpha > 0
    return slide(prediction, schedule, t, jnp.where(some, -sigma * change / jnp.where(some, alpha, 1), 0))
