"""Scores that tell whether an example was in a model's training set: membership inference attacks on the loss.

scores = membership.loss_scores(denoise, schedule, x, t=0.3, keys=keys)     # [B], higher for likely members
detection.auroc(scores_of_train, scores_of_held_out)                         # 0.5: the model reveals nothing
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import samplers, timesteps
from diffusion.arrays.arguments import is_count
from diffusion.arrays.parameters import traced
from diffusion.objectives.inputs import normal, split
from diffusion.parameterizations import Denoiser
from diffusion.schedules import NoiseSchedule


def _squares(difference: Array) -> Array:
    return jnp.mean(difference.reshape(difference.shape[0], -1) ** 2, axis=1)


def loss_scores(denoise: Denoiser, schedule: NoiseSchedule, x: Array, t: float, keys: Array, draws: int = 8) -> Array:
    """Minus the mean squared error of the predicted noise at t, which is smaller for examples of the training set.

        score = -mean over eps of |eps(alpha x + sigma eps, t) - eps|^2 / D

    Facts:
        paper: Matsumoto et al. 2023, "Membership Inference Attacks against Diffusion Models"; Carlini et al. 2023,
            "Extracting Training Data from Diffusion Models", section 5.1

    Args:
        denoise: the denoiser (x_t, t) -> Prediction, with the condition of each example and without guidance.
        schedule: the process.
        x: examples `[B, ...]`.
        t: the time, in (0, t_max].
        keys: random keys `[B]`; draw the keys of members and non-members in the same way.
        draws: the number of draws of the noise for each example, >= 1.

    Returns:
        The scores `[B]`, <= 0.

    Raises:
        ValueError: if draws is below 1, or t is not in (0, t_max].
    """
    if not is_count(draws):
        raise ValueError(f"loss_scores: draws = {draws} must be an integer of at least 1")
    if not traced(t) and not 0 < t <= float(schedule.t_max):
        raise ValueError(f"loss_scores: t = {t:g} must lie in (0, {float(schedule.t_max):g}]")

    def error(noise_keys: Array) -> Array:
        eps = normal(noise_keys, x)
        return _squares(denoise(schedule.alpha(t) * x + schedule.sigma(t) * eps, t).eps - eps)

    return -jax.lax.map(error, split(keys, draws)).mean(0)


def inversion_scores(
    denoise: Denoiser, schedule: NoiseSchedule, x: Array, t: float, keys: Array, steps: int = 10
) -> Array:
    """SecMI: minus the squared change of x_t after one step of DDIM's inversion to s > t and one DDIM step back.

        x_t by DDIM's inversion of x in `steps` steps,    x_s by one more,    score = -|DDIM(x_s; s -> t) - x_t|^2 / D

    Facts:
        paper: Duan et al. 2023, "Are Diffusion Models Vulnerable to Membership Inference Attacks?", eq. 9 and 10 (the
            t-error, and the statistic of their threshold attack)

    Args:
        denoise: the denoiser, as in `loss_scores`.
        schedule: the process.
        x: examples `[B, ...]`.
        t: the time, > 0, with s = t + t / steps below t_max.
        keys: random keys, `[B]`.
        steps: the number of steps from 0 to t, >= 1.

    Returns:
        The scores `[B]`, <= 0.

    Raises:
        ValueError: if steps is below 1, t is not positive, or s is not below t_max.
    """
    if not is_count(steps):
        raise ValueError(f"inversion_scores: steps = {steps} must be an integer of at least 1")
    s = t + t / steps
    if not (0 < t and s < float(schedule.t_max)):
        raise ValueError(
            f"inversion_scores: t = {t:g} and the next step, {s:g}, must lie in (0, {float(schedule.t_max):g})"
        )
    up = samplers.ddim_inversion()
    plan = lambda *times: timesteps.plan(np.array(times))
    grid = np.linspace(0.0, t, steps + 1)
    x_t = samplers.sample(up, denoise, schedule, x, timesteps.plan(grid), keys)
    x_s = samplers.sample(up, denoise, schedule, x_t, plan(t, s), keys)
    back = samplers.sample(samplers.ddim(), denoise, schedule, x_s, plan(s, t), keys)
    return -_squares(back - x_t)
