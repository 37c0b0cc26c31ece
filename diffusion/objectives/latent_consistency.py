"""Latent consistency distillation: a consistency function of the guided flow, conditioned on the guidance scale."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import timesteps
from diffusion.arrays.parameters import traced
from diffusion.flows import flow_maps
from diffusion.objectives.conditioning import null_of
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, mix, player, to_the_end
from diffusion.objectives.guidance_inputs import guided_prediction, uniform_scales
from diffusion.objectives.inputs import pairs, split
from diffusion.objectives.objective import Objective, Teacher
from diffusion.objectives.objective_facts import Condition
from diffusion.parameterizations import Parameterization, predict
from diffusion.schedules import left_broadcast


def latent_consistency_distillation(
    parameterization: Parameterization,
    teacher: Parameterization,
    null: Any,
    guidance: tuple[float, float] | float = (2.0, 14.0),
    solver_steps: int = 50,
    T: int = 1000,
    c: float = 0.001,
    shift: float = 1.0,
    exact_end: bool = False,
) -> Objective:
    """Consistency distillation of the guided flow over skipped steps.

        loss = mean (sqrt((f(x_t, t, w) - stop f_target(x_s, s, w))^2 + c^2) - c),    w ~ U(guidance),
        x_s = one step of DDIM with (1 + w) teacher(x_t, t) - w teacher(x_t, t, null),
        s, t = t_max (n - 1, n) / solver_steps

    The student receives the pair (condition, w `[B]`), the teacher only the condition. w is the paper's omega:
    classifier-free guidance of scale 1 + w. LCM-LoRA's student learns a single w and receives only the condition, like
    a network that has no input for w.

    Facts:
        loss: Huber distance of f(x_t, t, w) to f_target(x_s, s, w), element by element
        networks: model, target (EMA of the model), teacher
        optimum: the end of the teacher's guided flow, up to the error of DDIM with solver_steps steps
        paper: Luo et al. 2023, "Latent Consistency Models", algorithm 1, with the Huber distance of the authors' code;
            "LCM-LoRA: A Universal Stable-Diffusion Acceleration Module" for one w

    Args:
        parameterization: the student's parameterization, whose x0 is f; `flow_maps.latent_consistency(...)` in the
            paper.
        teacher: parameterization of the network "teacher".
        null: the null condition of one example.
        guidance: smallest and largest w, 2 and 14 in the paper; or one number, the w of all examples, which the student
            does not receive.
        solver_steps: number of DDIM steps, in [1, T]: T / k for the paper's skipping interval k = 20.
        T: number of steps of the discrete process; no time lies below 1 / T.
        c: constant of the Huber distance, > 0.
        shift: moves t and s to noisier times, see `timesteps.shift`; 1 in the paper. Use the student's sampling shift.
        exact_end: whether f_target(x_s, s) is replaced by x_s in the last of the solver's steps. Set it if the
            parameterization has no boundary condition that ensures it, as for x0.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t", "s" and "guidance", each `[B]`.

    Raises:
        ValueError: if the range of w is empty, solver_steps is not in [1, T] or c is not positive; when called, if
            there is no condition, or the shift leaves the schedule's range or moves a time below 1 / T.
    """
    receives = isinstance(guidance, Sequence)
    low, high = guidance if receives else (guidance, guidance)
    if not traced(low, high) and not low <= high:
        raise ValueError(f"latent consistency: guidance = {guidance} must be (least, largest) w")
    if not 1 <= solver_steps <= T:
        raise ValueError(f"latent consistency: solver_steps = {solver_steps} must be in [1, T = {T}]")
    if not traced(c) and not c > 0:
        raise ValueError(f"latent consistency: c = {c} must be positive; at 0 the gradient at an error of 0 is NaN")

    @entry(parameterization, teacher)
    def loss(networks, schedule, keys, batch, step):
        condition = batch.get("condition")
        if condition is None:
            raise ValueError("latent consistency distils guidance, which needs a condition, but the batch has none")
        time_keys, noise_keys, guidance_keys = split(keys, 3)
        n = jax.vmap(lambda key: jax.random.randint(key, (), 1, solver_steps + 1))(time_keys)
        times = timesteps.shift(schedule, np.float32(timesteps.uniform(schedule, solver_steps)[::-1]), shift)
        if times[1] < (1 - 1e-6) / T:  # but for rounding
            raise ValueError(
                f"latent consistency: shift = {shift} moves the first of solver_steps = {solver_steps} times to t = "
                f"{times[1]:g}, below 1 / T = {1 / T:g}. Valid: fewer steps, a larger shift, or a larger T"
            )
        t = jnp.asarray(times)[n]
        s = jnp.asarray(np.maximum(times, 1 / T))[n - 1]
        w = uniform_scales(guidance_keys, low, high)
        x_t = mix(schedule, t, *pairs(noise_keys, batch))
        conditions = (condition, null_of(condition, null))
        taught = frozen(networks, "teacher")
        guided = lambda x, t: guided_prediction(taught, schedule, teacher, x, t, conditions, w)
        x_s = jax.lax.stop_gradient(flow_maps.from_denoiser(guided, schedule)(x_t, t, s))
        read = (condition, w) if receives else condition
        end = lambda network, x, t: predict(network, schedule, parameterization, x, t, read).x0
        f_s = jax.lax.stop_gradient(end(frozen(networks, "target"), x_s, s))
        if exact_end:
            f_s = jnp.where(left_broadcast(n == 1, x_s), x_s, f_s)
        error = end(player(networks, "model"), x_t, t) - f_s
        losses = jnp.mean(jnp.sqrt(jnp.square(error) + c**2) - c, axis=tuple(range(1, error.ndim)))
        return losses, {"t": t, "s": s, "guidance": w}

    return Objective(
        loss,
        reads=to_the_end(parameterization),
        teacher=Teacher(scale=1.0),
        condition=Condition(strength=(1 + low, 1 + high) if receives else None),
    )
