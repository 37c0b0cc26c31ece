"""Progressive distillation: a student learns to do in one DDIM step what its teacher does in two."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import is_number
from diffusion.arrays.promotion import promoted
from diffusion.flows.flow_maps import from_denoiser
from diffusion.guidance import classifier_free, together
from diffusion.objectives.conditioning import null_of
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, mix, player
from diffusion.objectives.inputs import pairs, split, weighted_mean_square
from diffusion.objectives.objective import Denoises, Objective, Stages, Teacher
from diffusion.objectives.weightings import Weighting, truncated_snr
from diffusion.parameterizations import Parameterization, denoiser, predict
from diffusion.schedules import NoiseSchedule, at_each, left_broadcast


def progressive_distillation(
    parameterization: Parameterization,
    teacher: Parameterization,
    N: int,
    weighting: Weighting | None = None,
    stage: int | None = None,
    teacher_scale: float = 1.0,
    null: Any = None,
) -> Objective:
    """Halves the number of sampling steps, from 2 N to N, and with `stage` repeatedly down to 1.

        t = i / N,    x_s = two DDIM steps of the teacher, from t to t - 1 / (2 N) and to s = t - 1 / N
        x_target = (x_s - (sigma_s / sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)
        loss = w(t) mean |x0(x_t, t) - x_target|^2

    The student starts as the teacher, becomes the teacher of the next halving (`diffusion.training.stages`), and is
    sampled with `ddim()` on N uniform steps. Only the first teacher is guided; the students learn the guided output.

    Facts:
        loss: w(t) mean |x0 - x_target|^2
        networks: model, teacher
        optimum: one DDIM step of the student equals two of the teacher exactly
        paper: Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", algorithm 2; Meng
            et al. 2023, "On Distillation of Guided Diffusion Models", for a guided teacher

    Args:
        parameterization: the student's parameterization, defined at every t = i / N (v or x0 in the paper).
        teacher: parameterization of the network "teacher".
        N: number of the student's steps after the first halving, >= 1.
        weighting: (schedule, t) -> weight on the squared error of x0; `truncated_snr()`, max(SNR, 1), if None.
        stage: training steps after which N halves; N must then be a power of 2. None for a fixed N.
        teacher_scale: guidance scale of the first teacher; 1 for no guidance.
        null: the null condition of one example, used if teacher_scale is not 1.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`.

    Raises:
        ValueError: if N < 1, or, with `stage`, N is not a power of 2; when called, if the teacher is guided and there
            is no condition.
    """
    check_stages("progressive_distillation", N, stage)
    weighting = weighting or truncated_snr()
    stages = None if stage is None else stages_of(N, stage)

    @entry(parameterization, teacher)
    def loss(networks, schedule, keys, batch, step):
        taught = two_steps(networks, schedule, teacher, keys, batch, step, N, stage, teacher_scale, null)
        condition = batch.get("condition")
        x0 = predict(player(networks, "model"), schedule, parameterization, taught.x_t, taught.t, condition).x0
        return error_of_x0(schedule, weighting, taught, x0), {"t": taught.t}

    return Objective(loss, reads=Denoises(parameterization), teacher=Teacher(scale=teacher_scale, stages=stages))


class Taught(NamedTuple):
    """Two steps of the teacher, which the student learns to do in one.

    Attributes:
        x_t: `[B, ...]` noised data, from which teacher and student start.
        t: `[B]` times of x_t.
        s: `[B]` times at which the steps end.
        x_s: `[B, ...]` the teacher's result at s, without a gradient.
    """

    x_t: Array
    t: Array
    s: Array
    x_s: Array


def two_steps(
    networks, schedule, teacher, keys, batch, step, N: int, stage: int | None, teacher_scale: float, null: Any
) -> Taught:
    """Two DDIM steps of the teacher on the uniform grid of the stage, from data noised to t = i / N.

    Only the first teacher is guided.

    Raises:
        ValueError: if the teacher is guided and there is no condition.
    """
    time_keys, noise_keys = split(keys, 2)
    condition = batch.get("condition")
    if not is_number(teacher_scale, 1) and condition is None:
        raise ValueError("progressive_distillation: a guided teacher needs a condition, but the batch has none")
    steps = N if stage is None else jnp.maximum(N // 2 ** (step // stage), 1)
    x_0, eps = pairs(noise_keys, batch)
    dtype = promoted(jax.tree.leaves(x_0)[0].dtype)
    i = jax.vmap(lambda key: jax.random.randint(key, (), 1, steps + 1))(time_keys).astype(dtype)
    t, middle, s = (schedule.t_max * at / jnp.asarray(steps, dtype) for at in (i, i - 0.5, i - 1.0))
    x_t = mix(schedule, t, x_0, eps)
    network = frozen(networks, "teacher")

    def ended(denoise):
        ddim = from_denoiser(denoise, schedule)
        return ddim(ddim(x_t, t, middle), middle, s)

    plain = denoiser(network, schedule, teacher, condition)
    if is_number(teacher_scale, 1):
        x_s = ended(plain)
    else:
        both = together(network, schedule, teacher, (condition, null_of(condition, null)))
        guided = classifier_free(both, teacher_scale)
        first = stage is None or step < stage
        x_s = jax.lax.cond(first, lambda: ended(guided), lambda: ended(plain))
    return Taught(x_t, t, s, x_s)


def error_of_x0(schedule: NoiseSchedule, weighting: Weighting, taught: Taught, x0: Array) -> Array:
    """`[B]` weighted mean squared error of the student's x0 at x_t, to the x0 whose DDIM step leads to x_s."""
    x_t = taught.x_t
    at_t, at_s = (at_each(schedule, at, x_t) for at in (taught.t, taught.s))
    ratio = schedule.sigma(at_s) / schedule.sigma(at_t)
    scale = schedule.alpha(at_s) - ratio * schedule.alpha(at_t)
    x_target = (taught.x_s - left_broadcast(ratio, x_t) * x_t) / left_broadcast(scale, x_t)
    return weighted_mean_square(weighting(schedule, at_t), x0 - jax.lax.stop_gradient(x_target))


def check_stages(name: str, N: int, stage: int | None) -> None:
    """Refuses a number of steps that cannot be halved down to 1.

    Raises:
        ValueError: if N cannot; the message names it.
    """
    if N < 1:
        raise ValueError(f"{name}: N = {N} must be at least 1, the steps of the student")
    if stage is not None and (stage < 1 or N & (N - 1)):
        raise ValueError(
            f"{name}: N = {N} is halved after every stage = {stage} steps. Valid: N a power of 2, such as 8, and stage "
            "at least one step"
        )


def stages_of(N: int, stage: int) -> Stages:
    """The stages with N, N / 2, .. 1 sampling steps, of `stage` training steps each."""
    return Stages(stage, tuple(N >> halvings for halvings in range(N.bit_length())))
