"""MeanFlow: the mean velocity between two times, learned from an identity for its derivative along the flow."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import traced
from diffusion.flows import flow_maps
from diffusion.flows.flow_maps import Clocks, mean_velocity, start_and_duration
from diffusion.objectives import projectors
from diffusion.objectives.conditioning import drop_condition, null_of
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import derivative, mix, player, sum_square, with_features
from diffusion.objectives.guidance_inputs import GuidanceInputs, guided_target
from diffusion.objectives.inputs import pairs, split, times
from diffusion.objectives.objective import Jumps, Objective
from diffusion.objectives.objective_facts import Blocks, Condition, Head, Trained
from diffusion.objectives.projectors import Projector
from diffusion.parameterizations import velocity
from diffusion.schedules import at_each, left_broadcast
from diffusion.timesteps import Density


class Guidance(NamedTuple):
    """Classifier-free guidance that MeanFlow learns into the network, so that sampling costs one evaluation a step.

    Attributes:
        null: the null condition of one example; for class labels the integer num_classes.
        omega: weight of the conditional velocity v of the sample.
        kappa: weight of the network's conditional velocity; the resulting guidance scale is omega / (1 - kappa).
        dropout: share of examples that train on the null condition, without guidance.
    """

    null: Any
    omega: float = 1.0
    kappa: float = 0.5
    dropout: float = 0.1


def mean_flow(
    density: Density,
    equal: float = 0.75,
    p: float = 1.0,
    c: float = 0.01,
    guidance: Guidance | None = None,
    clocks: Clocks | None = None,
) -> Objective:
    """Regression on the MeanFlow identity u = v - (t - s) du/dt.

        loss = |u(x_t, t, s) - stop(v - (t - s) du/dt)|^2 / stop(|..|^2 + c)^p,    v = alpha' x_0 + sigma' eps
        du/dt = (v . grad_x + d/dt) u(x_t, t, s)

    t and s are the larger and the smaller of two draws. For a share `equal` of the examples, s = t, the larger draw, as
    in the authors' code; t thus has the same distribution in both cases. With guidance, v is replaced by omega v +
    kappa u(x_t, t, t) + (1 - omega - kappa) u(x_t, t, t, null). The paper states the identity for the rectified flow;
    it holds for any schedule with finite derivatives.

    Facts:
        loss: |u - stop(v - (t - s) du/dt)|^2 / stop(|..|^2 + c)^p
        networks: model, of two times
        optimum: the mean velocity of the flow from s to t; exact for p = 0, or if v is symmetrically distributed at
            fixed x_t
        paper: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", algorithm 1 and eq. 19-22

    Args:
        density: distribution of each of the two times; `logit_normal(schedule, -0.4, 1.0)` in the paper.
        equal: share of examples with s = t, in [0, 1]; 0.75 in the paper.
        p: power of the adaptive weight; 1 in the paper, 0 for the plain squared error. With p > 0 the loss is robust,
            and its minimiser need not be the mean. This is harmless for images, where all errors have about the same
            norm, but gives a large bias in few dimensions.
        c: constant of the adaptive weight; 0.01 in the authors' code.
        guidance: classifier-free guidance that the network learns, or None. With it, this objective drops the condition
            of a share `guidance.dropout` of the examples.
        clocks: the two time inputs of the network, as functions of t and s; `start_and_duration()` if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" and "s", each `[B]`.

    Raises:
        ValueError: if equal is not in [0, 1] or p < 0; TypeError from the objective, if the network has no forward
            derivative.
    """
    check_shares(equal, p)
    clocks = clocks or start_and_duration()

    @entry()
    def loss(networks, schedule, keys, batch, step):
        u = lambda x, t, s, condition: mean_velocity(player(networks, "model"), schedule, clocks, x, t, s, condition)
        t, s, importance, x_t, v, condition = noised_between(density, equal, guidance, u, schedule, keys, batch)
        ones = jnp.ones_like(t)
        zeros = jnp.zeros_like(s)
        u_t, du_dt = derivative(lambda x, t, s: u(x, t, s, condition), (x_t, t, s), (v, ones, zeros))
        target = jax.lax.stop_gradient(v - left_broadcast(t - s, x_t) * du_dt)
        return importance * adaptive(sum_square(u_t - target), p, c), {"t": t, "s": s}

    return mean_velocity_objective(loss, density, clocks, guidance)


def improved_mean_flow(
    density: Density,
    equal: float = 0.5,
    p: float = 1.0,
    c: float = 0.01,
    clocks: Clocks | None = None,
    guidance: GuidanceInputs | None = None,
    velocity_layer: int | None = None,
    projector: Projector | None = None,
) -> Objective:
    """MeanFlow as a regression on v, with the derivative along the network's velocity instead of the sample's.

        V = u(x_t, t, s) + (t - s) stop(du/dt),    du/dt = (v_hat(x_t, t) . grad_x + d/dt) u(x_t, t, s)
        loss = |V - v|^2 / stop(|V - v|^2 + c)^p,    v = alpha' x_0 + sigma' eps

    The tangent of `mean_flow` is v, which depends on the drawn pair; here the tangent depends only on x_t. v_hat is
    u(x_t, t, t), or the output of a velocity head, whose loss |v_hat - v|^2 / stop(|v_hat - v|^2 + c)^p is then added.
    With guidance the network receives the scale w and the interval in its condition, and v is replaced by v + (1 - 1 /
    w) (v_hat(w) - v_hat(null)), with w = 1 outside the interval.

    Facts:
        loss: |u + (t - s) stop(du/dt) - v|^2 / stop(|..|^2 + c)^p, and |v_hat - v|^2 / stop(|..|^2 + c)^p of the head
        networks: model, of two times; velocity, the head on features of the model (optional)
        optimum: the mean velocity of the flow from s to t, guided with the received scale; exact for p = 0, or if v is
            symmetrically distributed at fixed x_t
        paper: Geng et al. 2025, "Improved Mean Flows: On the Challenges of Fastforward Generative Models", eq. 12, and
            the authors' code, in which the head has additional blocks, and examples without a condition keep the
            conditional tangent

    Args:
        density: distribution of each of the two times; `logit_normal(schedule, -0.4, 1.0)` in the authors' code.
        equal: share of examples with s = t, in [0, 1]; 0.5 in the authors' code. Their guidance interval is all times.
        p: power of the adaptive weight; 1 in the authors' code, 0 for the plain squared error; see `mean_flow`.
        c: constant of the adaptive weight.
        clocks: the two time inputs of the network, as functions of t and s; `start_and_duration()` if None.
        guidance: guidance inputs of the network, or None.
        velocity_layer: index, from 1, of the block whose features the velocity head reads; None for no head.
        projector: network of the head, from features to the values of x in a token; `projectors.final_layer()` if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" and "s", each `[B]`, and with a head
        "velocity_loss" `[B]`.

    Raises:
        ValueError: if equal is not in [0, 1], p < 0, guidance has no valid scale or share, or there is a projector but
            no velocity_layer; TypeError from the objective, if the network has no forward derivative.
    """
    check_shares(equal, p)
    if guidance is not None:
        guidance.check()
    if velocity_layer is None and projector is not None:
        raise ValueError("improved_mean_flow: a projector belongs to a velocity head, which needs a velocity_layer")
    clocks = clocks or start_and_duration()
    head = projector or projectors.final_layer()
    heads = {} if velocity_layer is None else {"velocity": Head(velocity_layer, head.init, head.apply, target=0)}

    @entry()
    def loss(networks, schedule, keys, batch, step):
        decisions = split(keys, 2 if guidance is None else 3)
        t, s, importance = two_times(density, equal, decisions[0], batch)
        x_0, eps = pairs(decisions[1], batch)
        x_t = mix(schedule, t, x_0, eps)
        condition = batch.get("condition")
        both = lambda x, t, s, condition: _with_velocity(networks, schedule, clocks, velocity_layer, x, t, s, condition)
        v = velocity().target(schedule, at_each(schedule, t, x_0), x_0, eps)
        velocity_of = lambda condition: both(x_t, t, t, condition)[1]
        if guidance is None:
            rate = jax.lax.stop_gradient(velocity_of(condition))
        else:
            v, rate, condition = guided_target(
                guidance, velocity_of, schedule, decisions[2], t, v, condition, everywhere=s == t
            )
        tangents = (rate, jnp.ones_like(t), jnp.zeros_like(s))
        (u_t, v_hat), (du_dt, _) = derivative(lambda x, t, s: both(x, t, s, condition), (x_t, t, s), tangents)
        V = u_t + left_broadcast(t - s, x_t) * jax.lax.stop_gradient(du_dt)
        losses = adaptive(sum_square(V - v), p, c)
        metrics = {"t": t, "s": s}
        if heads:
            metrics["velocity_loss"] = adaptive(sum_square(v_hat - v), p, c)
            losses = losses + metrics["velocity_loss"]
        return importance * losses, metrics

    objective = mean_velocity_objective(loss, density, clocks, guidance)
    blocks = Blocks(features=() if velocity_layer is None else (velocity_layer,))
    return dataclasses.replace(objective, heads=heads, blocks=blocks)


def _with_velocity(networks, schedule, clocks, layer, x, t, s, condition) -> tuple[Array, Array]:
    """u(x, t, s), and the velocity head's output from the same evaluation, or u again if there is no head."""
    if layer is None:
        u = mean_velocity(player(networks, "model"), schedule, clocks, x, t, s, condition)
        return u, u
    model, recorded = with_features(player(networks, "model"), (layer,), "a velocity head")
    u = mean_velocity(model, schedule, clocks, x, t, s, condition)
    shape = x.shape[1:]
    ((tokens,),) = recorded
    return u, projectors.untokens(player(networks, "velocity")(tokens, shape), shape)


def noised_between(density, equal, guidance, u, schedule, keys, batch) -> tuple[Array, Array, Array, Array, Array, Any]:
    """The start of a loss on mean velocities: t, s, their importance, x_t, v at t, and the condition.

    With guidance, v is the guided velocity, and the condition of a share of the examples is dropped.
    """
    pair_keys, noise_keys, drop_keys = split(keys, 3)
    t, s, importance = two_times(density, equal, pair_keys, batch)
    x_0, eps = pairs(noise_keys, batch)
    x_t = mix(schedule, t, x_0, eps)
    v = velocity().target(schedule, at_each(schedule, t, x_0), x_0, eps)
    condition = batch.get("condition")
    if guidance is not None:
        v, condition = guided_velocity(guidance, u, drop_keys, x_t, t, v, condition)
    return t, s, importance, x_t, v, condition


def mean_velocity_objective(
    loss, density: Density, clocks: Clocks, guidance: Guidance | GuidanceInputs | None = None
) -> Objective:
    """The objective for a loss whose network predicts the mean velocity between two times."""
    condition = Condition(0.0 if guidance is None else guidance.dropout)
    if isinstance(guidance, GuidanceInputs):
        condition = condition._replace(strength=(1.0, guidance.largest), interval=guidance.interval)
    return Objective(
        loss,
        reads=Jumps(functools.partial(flow_maps.mean_flow, clocks=clocks), velocity()),
        density=density,
        network=Trained(times=2, forward_mode=True),
        condition=condition,
    )


def two_times(density, equal, keys, batch) -> tuple[Array, Array, Array]:
    """The larger and the smaller of two drawn times, or twice the larger for a share `equal`, and their importance.

    Here each example draws whether s = t; the authors' code sets s = t for the first rows of the batch.
    """
    first_keys, second_keys, equal_keys, stratum_keys = split(keys, 4)
    first, weight = times(density, first_keys, batch)
    # A stratified density would draw both times from one stratum if both had the same index.
    elsewhere = jax.vmap(lambda key: jax.random.randint(key, (), 0, 2**30))(stratum_keys)
    second, other_weight = times(density, second_keys, {**batch, "index": elsewhere})
    same = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(equal_keys) < equal
    t = jnp.maximum(first, second)
    return t, jnp.where(same, t, jnp.minimum(first, second)), weight * other_weight


def guided_velocity(guidance: Guidance, u, keys, x_t, t, v, condition):
    """The guided velocity and the condition; a share of the examples loses the condition, and with it the guidance."""
    if condition is None:
        raise ValueError("mean_flow: guidance needs a condition, but the batch has none")
    null = null_of(condition, guidance.null)
    conditional = u(x_t, t, t, condition)
    unconditional = u(x_t, t, t, null)
    rest = 1 - guidance.omega - guidance.kappa
    guided = jax.lax.stop_gradient(guidance.omega * v + guidance.kappa * conditional + rest * unconditional)
    drop = drop_condition(keys, jnp.zeros(t.shape, bool), True, guidance.dropout)
    return (
        jnp.where(left_broadcast(drop, v), v, guided),
        jax.tree.map(lambda a, b: jnp.where(left_broadcast(drop, a), b, a), condition, null),
    )


def adaptive(squared: Array, p: float, c: float) -> Array:
    """|error|^2 / stop(|error|^2 + c)^p."""
    return squared / jax.lax.stop_gradient(squared + c) ** p


def check_shares(equal: float, p: float) -> None:
    """Refuses a share outside [0, 1] and a negative power.

    Raises:
        ValueError: if one is out of range; the message names both.
    """
    if not traced(equal, p) and not (0 <= equal <= 1 and p >= 0):
        raise ValueError(f"mean flow: equal = {equal} must be a share in [0, 1], and p = {p} must not be negative")
