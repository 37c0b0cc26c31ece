"""Truncated consistency (TCM): a consistency model for the noisy times, which continues a trained one."""

import jax
import jax.numpy as jnp

from diffusion.arrays.parameters import functions_of, traced
from diffusion.objectives.consistency import PairWeighting, end_of_flow
from diffusion.objectives.consistency_times import Pairs
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import Distance, frozen, mix, per_example, player, squared, to_the_end
from diffusion.objectives.inputs import pairs as ends, split, times
from diffusion.objectives.objective import Objective, Teacher
from diffusion.parameterizations import Parameterization
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Density
from diffusion.timesteps.valid_ranges import check_one_schedule


def truncated_consistency(
    parameterization: Parameterization,
    teacher: Parameterization,
    density: Density,
    pairs: Pairs,
    boundary: float = 1.0,
    share: float = 0.25,
    weight: float = 0.1,
    distance: Distance | None = None,
    pair_weighting: PairWeighting | None = None,
) -> Objective:
    """Consistency training at times t >= t', whose targets at times below t' come from a trained consistency model.

        t' where sigma / alpha = boundary,    t = t' for a share of the examples, else max(t, t')
        target = f(x_s, s) for s >= t',   f_teacher(x_s, s) for s < t'
        loss = a w(t, s) d(f(x_t, t), stop target),    a = weight / share at t = t' and 1 / (1 - share) else

    The expectation is the loss of consistency training plus `weight` times the loss at the boundary t'. The teacher is
    a consistency model for all times, trained by `ct` or `ict`. If the network "model" starts from its weights, this is
    the paper's second stage. The trained network is not defined at times below t'.

    Facts:
        loss: a w(t, s) d(f(x_t, t), stop f(x_s, s)), with f_teacher(x_s, s) for s < t'
        networks: model, teacher (a consistency model)
        optimum: the end of the probability flow from x_t, if the teacher's f is exact, up to an error of order 1 in the
            gap t - s
        paper: Lee et al. 2024, "Truncated Consistency Models", section 3; values as in the authors' code

    Args:
        parameterization: the network's parameterization, whose x0 is f; see `flow_maps.consistency`.
        teacher: parameterization of the network "teacher", whose x0 is f_teacher.
        density: distribution of t; in the paper, ln sigma follows a Student's t distribution, heavy-tailed above t'.
        pairs: (schedule, t, step) -> (t, s); `shrinking` in the authors' code.
        boundary: sigma / alpha at t', > 0; 1 in the paper.
        share: share of the examples at t', in (0, 1); 0.25 in the paper.
        weight: weight of the boundary's loss, >= 0; 0.1 in the paper.
        distance: d of two batches -> `[B]`; the mean square if None, `pseudo_huber` in the paper.
        pair_weighting: (schedule, t, s) -> w; 1 if None, `inverse_gap` in the authors' code for CIFAR-10.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" and "s", each `[B]`.

    Raises:
        ValueError: if boundary is not positive, share not in (0, 1) or weight negative.
    """
    if not traced(boundary, share, weight) and not (boundary > 0 and 0 < share < 1 and weight >= 0):
        raise ValueError(
            f"truncated_consistency: boundary = {boundary}, share = {share} and weight = {weight}. Valid: boundary > "
            "0, 0 < share < 1 and weight >= 0 (1, 0.25 and 0.1 in the paper)"
        )
    distance = per_example(distance or squared)

    @entry(parameterization, teacher)
    def loss(networks, schedule, keys, batch, step):
        check_one_schedule("truncated_consistency", schedule)
        time_keys, noise_keys, share_keys = split(keys, 3)
        x_0, eps = ends(noise_keys, batch)
        condition = batch.get("condition")
        t, importance = times(density, time_keys, batch)
        first = schedule.inverse_log_snr(jnp.asarray(-2 * functions_of(boundary).log(boundary), t.dtype))
        at_first = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(share_keys) < share
        t, s = pairs(schedule, jnp.where(at_first, first, jnp.maximum(t, first)), step)
        x_s = mix(schedule, s, x_0, eps)
        f_s = end_of_flow(frozen(networks, "model"), schedule, parameterization, x_s, s, condition)
        f_teacher = end_of_flow(frozen(networks, "teacher"), schedule, teacher, x_s, s, condition)
        target = jnp.where(left_broadcast(s < first, x_s), f_teacher, f_s)
        x_t = mix(schedule, t, x_0, eps)
        f_t = end_of_flow(player(networks, "model"), schedule, parameterization, x_t, t, condition)
        factor = jnp.where(at_first, weight / share, 1 / (1 - share))
        if pair_weighting is not None:
            factor *= pair_weighting(schedule, t, s)
        losses = factor * distance(f_t, target)
        return importance * losses, {"t": t, "s": s}

    return Objective(loss, reads=to_the_end(parameterization), density=density, teacher=Teacher())
