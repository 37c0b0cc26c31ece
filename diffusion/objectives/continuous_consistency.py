"""Consistency training and distillation in continuous time (sCM), by the derivative of the network along the flow."""

import math

import jax
import jax.numpy as jnp

from diffusion.arrays.parameters import traced
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import derivative, frozen, player, sum_square, to_the_end
from diffusion.objectives.inputs import noised
from diffusion.objectives.objective import Objective, Teacher
from diffusion.objectives.objective_facts import Trained
from diffusion.parameterizations import Clock, Parameterization, edm, predict
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Density


def continuous_consistency(
    density: Density,
    sigma_data: float = 0.5,
    warmup: int = 10_000,
    c: float = 0.1,
    clock: Clock | None = None,
    teacher: Parameterization | None = None,
    student: Parameterization | None = None,
) -> Objective:
    """sCM: df(x_t, t) / dt = 0 along the flow, in TrigFlow's angle a = atan(sigma / (alpha sigma_data)).

        x = cos(a) x_0 + sin(a) z,    z = sigma_data eps,    f = cos(a) x - sin(a) sigma_data F(x / sigma_data, a)
        x' = cos(a) z - sin(a) x_0  (sCT),   or by the teacher's x_0 and eps  (sCD)
        g = -cos^2(a) (sigma_data F - x') - r cos(a) sin(a) (x + sigma_data dF/da),    r = min(1, step / warmup)
        loss = |F - stop(F + g / (|g| + c))|^2 / D

    g is cos(a) df/da at r = 1. Scaling x and renaming t turn any schedule into a TrigFlow, in which a prediction is

        F = cos(a) eps - sin(a) x_0 / sigma_data

    so that a network of any parameterization can be the student, and can begin with its teacher's weights. With
    `edm(sigma_data, clock)` the output is -F. The paper's adaptive weighting e^w loss - w is `with_uncertainty` around
    this objective, with u = -w.

    Facts:
        loss: |F - stop(F + g / (|g| + c))|^2 / D
        networks: model; teacher for distillation
        optimum: the end of the probability flow from x_t, exact if c is large or g is symmetric at fixed x_t; for
            distillation, exactly the end of the teacher's flow
        paper: Lu and Song 2024, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models", algorithm 1

    Args:
        density: distribution of t; `log_normal(schedule, -1.0, 1.4)` for CIFAR-10 in the paper.
        sigma_data: standard deviation of the data, > 0.
        warmup: steps over which the unstable part of the tangent fades in; 10 000 in the paper, 0 for none.
        c: constant of the tangent's normalisation; 0.1 in the paper. Normalising biases sCT in few dimensions, where
            |g| varies.
        clock: the time that the network receives; `log_sigma()` if None. The paper's network receives the angle, which
            varies less at the ends.
        teacher: parameterization of the network "teacher"; None for training without a teacher.
        student: parameterization of the network "model"; `edm(sigma_data, clock)` if None. It must be finite at all
            times of the density, as `velocity` and `edm` are.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" and "tangent" (|g|), each `[B]`.

    Raises:
        ValueError: if warmup or c is negative; TypeError from the objective, if the network has no forward derivative.
    """
    if warmup < 0 or not (traced(c) or c >= 0):
        raise ValueError(f"continuous_consistency: warmup = {warmup} and c = {c} must not be negative")
    student = edm(sigma_data, clock) if student is None else student

    @entry(student, teacher)
    def loss(networks, schedule, keys, batch, step):
        if schedule.leaves:
            raise ValueError(
                "continuous_consistency differentiates along the angle of one schedule, but here each leaf has its "
                "own. Valid: one schedule for all leaves, or consistency_training, mean_flow or shortcut"
            )
        x_0, eps, x_t, t, importance = noised(schedule, density, keys, batch)
        condition = batch.get("condition")
        if teacher is not None:
            predicted = predict(frozen(networks, "teacher"), schedule, teacher, x_t, t, condition)
            x_0_dot, eps_dot = jax.lax.stop_gradient(predicted[:2])
        else:
            x_0_dot, eps_dot = x_0, eps

        angle = lambda t: jnp.arctan2(schedule.sigma(t), sigma_data * schedule.alpha(t))
        a, a_dot = jax.jvp(angle, (t,), (jnp.ones_like(t),))
        cos = left_broadcast(jnp.cos(a), x_t)
        sin = left_broadcast(jnp.sin(a), x_t)
        x = cos * x_0 + sin * sigma_data * eps
        x_dot = cos * sigma_data * eps_dot - sin * x_0_dot

        def trigflow(x, t):
            alpha, sigma = (left_broadcast(number(t), x) for number in (schedule.alpha, schedule.sigma))
            size = jnp.sqrt((sigma_data * alpha) ** 2 + sigma**2)
            x_t = size / sigma_data * x
            predicted = predict(player(networks, "model"), schedule, student, x_t, t, condition)
            return (sigma_data * alpha * predicted.eps - sigma / sigma_data * predicted.x0) / size

        # The factor cos(a) sin(a) inside the derivative keeps it small at both ends, as in the paper's section 4.1.
        speed = jnp.cos(a) * jnp.sin(a)
        F, F_dot = derivative(trigflow, (x, t), (left_broadcast(speed, x) * x_dot, speed / a_dot))
        fixed, F_dot = jax.lax.stop_gradient((F, F_dot))
        r = 1.0 if warmup == 0 else jnp.minimum(1.0, jnp.asarray(step, jnp.float32) / warmup)
        g = -(cos**2) * (sigma_data * fixed - x_dot) - r * (cos * sin * x + sigma_data * F_dot)
        norm = jnp.sqrt(sum_square(g))
        g = g / left_broadcast(jnp.maximum(norm + c, jnp.finfo(norm.dtype).tiny), g)
        losses = sum_square(F - fixed - g) / math.prod(x.shape[1:])
        return importance * losses, {"t": t, "tangent": norm}

    return Objective(
        loss,
        reads=to_the_end(student),
        density=density,
        network=Trained(forward_mode=True),
        teacher=None if teacher is None else Teacher(),
    )
