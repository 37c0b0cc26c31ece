"""Consistency training and distillation at two neighbouring times: f(x_t, t) = f(x_s, s) along the flow."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.parameters import traced
from diffusion.flows import flow_maps
from diffusion.objectives import weightings
from diffusion.objectives.consistency_times import (
    Pairs,
    constant_curriculum,
    discretised,
    doubling_curriculum,
    ramp_density,
    shrinking,
    square_root_curriculum,
)
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import Distance, frozen, mix, per_example, player, pseudo_huber, squared, to_the_end
from diffusion.objectives.inputs import pairs as ends, split, times
from diffusion.objectives.objective import Objective, Teacher
from diffusion.parameterizations import Network, Parameterization, predict
from diffusion.schedules import NoiseSchedule, check_schedule, left_broadcast
from diffusion.timesteps import Density, log_normal
from diffusion.timesteps.valid_ranges import check_one_schedule

PairWeighting = Callable[[NoiseSchedule, Array, Array], Array]
"""(schedule, t, s) -> weight of the pair."""
Solver = Callable[..., flow_maps.FlowMap]
"""(denoise, schedule) -> the flow map of one solver step with this denoiser."""


def consistency_training(
    parameterization: Parameterization,
    density: Density,
    pairs: Pairs,
    distance: Distance | None = None,
    pair_weighting: PairWeighting | None = None,
    target: str = "target",
) -> Objective:
    """Consistency training, without a teacher: both times see the same x_0 and eps.

        loss = w(t, s) d(f(x_t, t), stop f_target(x_s, s)),    x_t = alpha_t x_0 + sigma_t eps, x_s likewise

    `ct`, `ict` and `ect` are this objective with the published arguments.

    Facts:
        loss: w(t, s) d(f(x_t, t), f_target(x_s, s))
        networks: model, and target (EMA of the model) unless target = model
        optimum: the end of the probability flow from x_t, up to an error of order 1 in the gap t - s
        paper: Song et al. 2023, "Consistency Models", algorithm 3

    Args:
        parameterization: the network's parameterization, whose x0 is f; see `flow_maps.consistency`.
        density: distribution of t.
        pairs: (schedule, t, step) -> (t, s).
        distance: d of two batches -> `[B]`; the mean square if None.
        pair_weighting: (schedule, t, s) -> w; 1 if None.
        target: name of the network that is evaluated at s, without a gradient; "model" to use no EMA.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" and "s", each `[B]`.
    """
    distance = per_example(distance or squared)

    @entry(parameterization)
    def loss(networks, schedule, keys, batch, step):
        time_keys, noise_keys = split(keys, 2)
        x_0, eps = ends(noise_keys, batch)
        t, importance = times(density, time_keys, batch)
        t, s = pairs(schedule, t, step)
        end = lambda network, x, t: end_of_flow(network, schedule, parameterization, x, t, batch.get("condition"))
        f_s = end(frozen(networks, target), mix(schedule, s, x_0, eps), s)
        f_t = end(player(networks, "model"), mix(schedule, t, x_0, eps), t)
        weight = 1 if pair_weighting is None else pair_weighting(schedule, t, s)
        return importance * weight * distance(f_t, jax.lax.stop_gradient(f_s)), {"t": t, "s": s}

    return Objective(loss, reads=to_the_end(parameterization), density=density)


def consistency_distillation(
    parameterization: Parameterization,
    teacher: Parameterization,
    density: Density,
    pairs: Pairs,
    distance: Distance | None = None,
    pair_weighting: PairWeighting | None = None,
    solver: Solver = flow_maps.heun,
) -> Objective:
    """Consistency distillation: one step of an ODE solver with the teacher leads from x_t to x_s.

        loss = w(t, s) d(f(x_t, t), stop f_target(x_s, s)),    x_s = solver(teacher, x_t, t, s)

    Facts:
        loss: w(t, s) d(f(x_t, t), f_target(solver(x_t), s))
        networks: model, target (EMA of the model), teacher
        optimum: the end of the teacher's flow, up to the solver's global error, which is of order 2 in t - s with Heun
            and 1 with DDIM
        paper: Song et al. 2023, "Consistency Models", algorithm 2

    Args:
        parameterization: the network's parameterization, whose x0 is f; see `flow_maps.consistency`.
        teacher: parameterization of the network "teacher".
        density: distribution of t.
        pairs: (schedule, t, step) -> (t, s); `discretised` with a fixed number of times, 18 for Heun in the paper.
        distance: d of two batches -> `[B]`; the mean square if None.
        pair_weighting: (schedule, t, s) -> w; 1 if None.
        solver: (denoise, schedule) -> flow map: `flow_maps.heun` or `flow_maps.from_denoiser` (DDIM).

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" and "s", each `[B]`.
    """
    distance = per_example(distance or squared)

    @entry(parameterization, teacher)
    def loss(networks, schedule, keys, batch, step):
        time_keys, noise_keys = split(keys, 2)
        x_0, eps = ends(noise_keys, batch)
        t, importance = times(density, time_keys, batch)
        condition = batch.get("condition")
        t, s = pairs(schedule, t, step)
        x_t = mix(schedule, t, x_0, eps)
        denoise = lambda x, t: predict(frozen(networks, "teacher"), schedule, teacher, x, t, condition)
        x_s = jax.lax.stop_gradient(solver(denoise, schedule)(x_t, t, s))
        f_s = end_of_flow(frozen(networks, "target"), schedule, parameterization, x_s, s, condition)
        f_t = end_of_flow(player(networks, "model"), schedule, parameterization, x_t, t, condition)
        weight = 1 if pair_weighting is None else pair_weighting(schedule, t, s)
        return importance * weight * distance(f_t, jax.lax.stop_gradient(f_s)), {"t": t, "s": s}

    return Objective(loss, reads=to_the_end(parameterization), density=density, teacher=Teacher())


def ct(schedule: NoiseSchedule, parameterization: Parameterization, total: int, strata: int | None = None) -> Objective:
    """Consistency training as first published: N(k) times, equally likely pairs, an EMA target.

    Use it with the EMA rate mu(k) = exp(2 ln(0.9) / N(k)) (the paper's s_0 = 2, mu_0 = 0.9).

    Facts:
        loss: mean |f(x_t, t) - f_target(x_s, s)|^2
        networks: model, target (EMA of the model)
        optimum: the end of the probability flow from x_t, up to an error of order 1 in the gap t - s
        paper: Song et al. 2023, "Consistency Models", algorithm 3, with the squared distance instead of LPIPS

    Args:
        schedule: the process, which turns sigma / alpha in [0.002, 80] into t.
        parameterization: parameterization as in `consistency_training`; `flow_maps.consistency_boundary()` in the
            paper.
        total: number of training steps K.
        strata: number of strata or None, see `timesteps.from_quantile`.
    """
    check_schedule(schedule)
    pairs = discretised(square_root_curriculum(total))
    return consistency_training(parameterization, ramp_density(schedule, strata=strata), pairs)


def ict(
    schedule: NoiseSchedule, parameterization: Parameterization, total: int, strata: int | None = None
) -> Objective:
    """Improved consistency training: no EMA, pseudo-Huber distance, log-normal times, inverse-gap weights, larger N(k).

    Facts:
        loss: (sqrt(|f(x_t, t) - stop f(x_s, s)|^2 + c^2) - c) / (r_t - r_s), r = sigma / alpha
        networks: model
        optimum: the end of the probability flow from x_t, up to the gap t - s and the bias of a robust distance, which
            is small in many dimensions
        paper: Song and Dhariwal 2023, "Improved Techniques for Training Consistency Models", table 1

    Args:
        schedule: the process, which turns sigma / alpha in [0.002, 80] into t.
        parameterization: parameterization as in `consistency_training`; `flow_maps.consistency_boundary()` in the
            paper.
        total: number of training steps K.
        strata: number of strata or None, see `timesteps.from_quantile`.
    """
    check_schedule(schedule)
    return consistency_training(
        parameterization,
        log_normal(_in_range(schedule, 0.002, 80.0), -1.1, 2.0, strata),
        discretised(doubling_curriculum(total)),
        pseudo_huber(),
        inverse_gap,
        target="model",
    )


def cd(
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    teacher: Parameterization,
    N: int = 18,
    strata: int | None = None,
) -> Objective:
    """Consistency distillation as first published: one Heun step of the teacher between two of N times.

    Facts:
        loss: mean |f(x_t, t) - f_target(heun(x_t), s)|^2
        networks: model, target (EMA of the model), teacher
        optimum: the end of the teacher's flow, up to the solver's error of order 2 in the gap t - s
        paper: Song et al. 2023, "Consistency Models", algorithm 2, with the squared distance instead of LPIPS

    Args:
        schedule: the process, which turns sigma / alpha in [0.002, 80] into t.
        parameterization: parameterization as in `consistency_training`; `flow_maps.consistency_boundary()` in the
            paper.
        teacher: parameterization of the network "teacher".
        N: number of times, >= 2; 18 in the paper.
        strata: number of strata or None, see `timesteps.from_quantile`.

    Raises:
        ValueError: if N < 2.
    """
    check_schedule(schedule)
    if N < 2:
        raise ValueError(f"cd: N = {N}; a pair of times needs at least 2 (18 in the paper)")
    pairs = discretised(constant_curriculum(N))
    density = ramp_density(schedule, strata=strata)
    return consistency_distillation(parameterization, teacher, density, pairs)


def ect(
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    stage: int,
    q: float = 4.0,
    sigma_data: float = 0.5,
    c: float = 0.0,
    strata: int | None = None,
) -> Objective:
    """Easy consistency tuning: from the denoising loss (s = 0) to ever closer times, starting from a diffusion model.

    Facts:
        loss: (SNR + 1 / sigma_data^2) (sqrt(|f(x_t, t) - stop f(x_s, s)|^2 + c^2) - c)
        networks: model
        optimum: the end of the probability flow from x_t, up to the gap t - s and the bias of a robust distance, which
            is small in many dimensions
        paper: Geng et al. 2024, "Consistency Models Made Easy", algorithm 1, with the weights of the authors' code

    Args:
        schedule: the process.
        parameterization: parameterization as in `consistency_training`; `edm()` in the paper, whose boundary is at s =
            0.
        stage: training steps of one stage.
        q: factor of `shrinking`.
        sigma_data: standard deviation of the data.
        c: constant of `pseudo_huber`; 0 in the authors' code.
        strata: number of strata or None, see `timesteps.from_quantile`.
    """
    check_schedule(schedule)
    weight = weightings.edm(sigma_data)
    return consistency_training(
        parameterization,
        log_normal(schedule, -1.1, 2.0, strata),
        shrinking(stage, q),
        pseudo_huber(c),
        lambda schedule, t, s: weight(schedule, t),
        target="model",
    )


def inverse_gap(schedule: NoiseSchedule, t: Array, s: Array) -> Array:
    """1 / (r_t - r_s) with r = sigma / alpha. Song and Dhariwal 2023, section 3.4."""
    check_one_schedule("inverse_gap", schedule)
    r_t, r_s = (jnp.exp(-schedule.log_snr(at) / 2) for at in (t, s))
    return 1 / (r_t - r_s)


def _in_range(schedule: NoiseSchedule, sigma_min: float, sigma_max: float) -> NoiseSchedule:
    """The schedule without the times at which sigma / alpha is out of range, for a density that ends with the range."""

    def end(t: ArrayLike, sigma: float, sign: int) -> ArrayLike:
        with jax.ensure_compile_time_eval():
            log_snr = -2 * math.log(sigma)
            beyond = sign * (schedule.log_snr(t) - log_snr) > 1e-4
            moved = schedule.inverse_log_snr(log_snr)
        if traced(beyond, moved):
            return jnp.where(beyond, moved, t)
        return float(moved) if beyond else t

    return schedule._replace(t_min=end(schedule.t_min, sigma_min, 1), t_max=end(schedule.t_max, sigma_max, -1))


def end_of_flow(network: Network, schedule, parameterization, x, t, condition) -> Array:
    """f(x, t), which is x itself at t = 0, where networks are not defined."""
    inside = t > 0
    within = jnp.where(inside, t, (schedule.t_min + schedule.t_max) / 2)
    f = predict(network, schedule, parameterization, x, within, condition).x0
    return jnp.where(left_broadcast(inside, x), f, x)
