"""Whether an example was in a model's training set: attacks on its loss, and how well they do.

scores = membership.loss_scores(denoise, schedule, x, t=0.3, keys=keys)     # [B], higher: rather a member
detection.auroc(scores_of_train, scores_of_held_out)                         # 0.5: the model tells nothing
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import samplers, timesteps
from diffusion.objectives.inputs import normal, split
from diffusion.parameterizations import Denoiser
from diffusion.schedules import NoiseSchedule


def _squares(difference: Array) -> Array:
    return jnp.mean(difference.reshape(difference.shape[0], -1) ** 2, axis=1)


def loss_scores(denoise: Denoiser, schedule: NoiseSchedule, x: Array, t: float, keys: Array, draws: int = 8) -> Array:
    """Minus the error of the predicted noise at t, the mean over some draws: members have been trained on.

        score = -mean over eps of |eps(alpha x + sigma eps, t) - eps|^2 / D

    Facts:
        paper: Matsumoto et al. 2023, "Membership Inference Attacks against Diffusion Models"; Carlini et al. 2023,
            "Extracting Training Data from Diffusion Models", section 5.1

    Args:
        denoise: (x_t, t) -> Prediction, with the condition of each example and without guidance.
        schedule: the process.
        x: examples `[B, ...]`.
        t: the time, in (0, t_max].
        keys: random keys `[B]`; the keys of members and of others must be drawn alike.
        draws: the number of draws of the noise for each example, >= 1.

    Returns:
        `[B]`.
    """

    def error(noise_keys: Array) -> Array:
        eps = normal(noise_keys, x)
        return _squares(denoise(schedule.alpha(t) * x + schedule.sigma(t) * eps, t).eps - eps)

    return -jax.lax.map(error, split(keys, draws)).mean(0)


def inversion_scores(
    denoise: Denoiser, schedule: NoiseSchedule, x: Array, t: float, keys: Array, steps: int = 10
) -> Array:
    """SecMI: minus the change of x_t after one step of DDIM up, and back down by the model.

        x_t by DDIM's inversion of x in `steps` steps,    x_s by one more,    score = -|DDIM(x_s; s -> t) - x_t|^2 / D

    Facts:
        paper: Duan et al. 2023, "Are Diffusion Models Vulnerable to Membership Inference Attacks?", eq. 9 and 10 (the
            t-error, and the statistic of their threshold attack)

    Args:
        denoise: the denoiser, as `loss_scores` takes it.
        schedule: the process.
        x: examples `[B, ...]`.
        t: the time, in (0, t_max) with a step above it.
        keys: random keys, `[B]`.
        steps: the number of steps to t; s lies one more step above t.

    Returns:
        `[B]`.

    Raises:
        ValueError: if the step above t passes t_max.
    """
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
