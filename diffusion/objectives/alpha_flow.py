"""AlphaFlow: from trajectory flow matching to MeanFlow, by a step that shrinks during training."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.parameters import traced
from diffusion.flows.flow_maps import Clocks, mean_velocity, start_and_duration
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import derivative, player, sum_square
from diffusion.objectives.mean_flow import Guidance, adaptive, check_shares, mean_velocity_objective, noised_between
from diffusion.objectives.objective import Objective
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Density

LEAST = 2.0**-12
"""Least alpha above 0, where the rounding of Delta / alpha is about the distance from the error of `mean_flow`."""


def alpha_flow(
    density: Density,
    total: int,
    equal: float = 0.5,
    p: float = 1.0,
    c: float = 0.01,
    start: float = 0.0,
    end: float = 1.0,
    gamma: float = 25.0,
    clamp: float = 0.005,
    guidance: Guidance | None = None,
    clocks: Clocks | None = None,
) -> Objective:
    """Regresses the mean velocity on v over a share alpha of [s, t], and on the network's own output over the rest.

        r = t - alpha (t - s),    x_r = x_t - (t - r) v,    v = alpha' x_0 + sigma' eps
        Delta = u(x_t, t, s) - stop(alpha v + (1 - alpha) u(x_r, r, s))
        loss = alpha^(2 p - 1) |Delta|^2 / stop(|Delta|^2 + c)^p
        alpha = 1 - sigmoid(gamma (k - (k_0 + k_1) / 2) / (k_1 - k_0)),    k_0 = start total, k_1 = end total

    at training step k. At alpha = 1 this is trajectory flow matching, whose target is v for every s; at 1/2 it becomes
    the target of a shortcut model whose first half step follows v. As alpha vanishes, Delta / alpha becomes
    `mean_flow`'s error; below `clamp`, and after step k_1, alpha is set to 0, where the loss equals the loss of
    `mean_flow`, with its forward-mode derivative. Above 1 - `clamp`, and before step k_0, alpha is set to 1. Examples
    with s = t always have the loss of flow matching. p = 0 is the definition, p = 1 the weight of the authors' code,
    where |Delta|^2 is a mean over the numbers of an example. The clipping of the target in the authors' code is not
    applied.

    Facts:
        loss: alpha^(2 p - 1) |u - stop(alpha v + (1 - alpha) u(x_r, r, s))|^2 / stop(|..|^2 + c)^p
        networks: model, of two times
        optimum: at alpha = 0 the optimum of `mean_flow`; at alpha = 1 the velocity at t for every s
        paper: Zhang et al. 2025, "AlphaFlow: Understanding and Improving MeanFlow Models", definition 1 and algorithm
            2; weight, clamping and values as in the authors' code

    Args:
        density: distribution of each of the two times; `logit_normal(schedule, -0.4, 1.0)` in the paper.
        total: number of training steps of the run.
        equal: share of examples with s = t, in [0, 1]; 0.5 in the authors' code, 0.25 with guidance on DiT-B/2.
        p: power of the adaptive weight; 1 in the authors' code, 0 for the plain squared error; see `mean_flow`.
        c: constant of the adaptive weight.
        start: share of the training before alpha begins to fall, in [0, end).
        end: share of the training after which alpha is 0, up to 1.
        gamma: steepness of the fall, > 0; 25 in the authors' code.
        clamp: distance of alpha from 0 and from 1 below which it is set to them, in [0, 0.5); 0.005 in the authors'
            code. An alpha below 2^-12 is 0 for every clamp: float32 has too few digits of Delta / alpha.
        guidance: classifier-free guidance that the network learns, or None. With it, this objective drops the condition
            of a share `guidance.dropout` of the examples.
        clocks: the two time inputs of the network, as functions of t and s; `start_and_duration()` if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t", "s" and "alpha", each `[B]`.

    Raises:
        ValueError: if equal is not in [0, 1], p < 0, total < 1, 0 <= start < end <= 1 does not hold, gamma is not
            positive, or clamp not in [0, 0.5); TypeError from the objective, if the network has no forward derivative.
    """
    check_shares(equal, p)
    if total < 1 or not (traced(start, end) or 0 <= start < end <= 1):
        raise ValueError(
            f"alpha_flow: total = {total}, start = {start} and end = {end}. Valid: total at least 1 step, and 0 <= "
            "start < end <= 1"
        )
    if not traced(gamma, clamp) and not (gamma > 0 and 0 <= clamp < 0.5):
        raise ValueError(f"alpha_flow: gamma = {gamma} and clamp = {clamp}. Valid: gamma > 0 and 0 <= clamp < 0.5")
    clocks = clocks or start_and_duration()

    @entry()
    def loss(networks, schedule, keys, batch, step):
        u = lambda x, t, s, condition: mean_velocity(player(networks, "model"), schedule, clocks, x, t, s, condition)
        t, s, importance, x_t, v, condition = noised_between(density, equal, guidance, u, schedule, keys, batch)
        alpha = _alpha(step, start * total, end * total, gamma, clamp)

        def differential(x_t, v, t, s):
            _, du_dt = derivative(lambda x, t, s: u(x, t, s, condition), (x_t, t, s), (v, jnp.ones_like(t), 0 * s))
            return v - left_broadcast(t - s, x_t) * du_dt

        def discrete(x_t, v, t, s):
            r = t - alpha * (t - s)
            x_r = x_t - left_broadcast(t - r, x_t) * v
            return (alpha * v + (1 - alpha) * u(x_r, r, s, condition)).astype(v.dtype)

        target = jax.lax.cond(alpha > 0, discrete, differential, x_t, v, t, s)
        target = jnp.where(left_broadcast(s < t, v), target, v)
        factor = jnp.where((s < t) & (alpha > 0), jnp.where(alpha > 0, alpha, 1.0) ** (2 * p - 1), 1.0)
        error = u(x_t, t, s, condition) - jax.lax.stop_gradient(target)
        losses = factor * adaptive(sum_square(error), p, c)
        return importance * losses, {"t": t, "s": s, "alpha": jnp.broadcast_to(alpha, t.shape)}

    return mean_velocity_objective(loss, density, clocks, guidance)


def _alpha(step: ArrayLike, first: float, last: float, gamma: float, clamp: float) -> Array:
    """alpha at a training step, 1 before the first and 0 after the last."""
    k = jnp.asarray(step, jnp.float32)
    alpha = jax.nn.sigmoid(-gamma * (k - (first + last) / 2) / (last - first))
    alpha = jnp.where(alpha < jnp.maximum(clamp, LEAST), 0.0, jnp.where(alpha > 1 - clamp, 1.0, alpha))
    return jnp.where(k < first, 1.0, jnp.where(k > last, 0.0, alpha))
