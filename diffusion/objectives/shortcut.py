"""Shortcut models: one network for every step size, which learns each size from two steps of half that size."""

import functools
import math

import jax
import jax.numpy as jnp

from diffusion.arrays.parameters import traced
from diffusion.arrays.promotion import promoted
from diffusion.flows import flow_maps
from diffusion.flows.flow_maps import mean_velocity, start_and_duration
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, mix, player
from diffusion.objectives.inputs import mean_square, pairs, split
from diffusion.objectives.objective import Jumps, Objective
from diffusion.objectives.objective_facts import Trained
from diffusion.parameterizations import Clock, velocity
from diffusion.schedules import at_each, left_broadcast


def shortcut(M: int = 128, share: float = 0.25, clip: float = math.inf, clock: Clock | None = None) -> Objective:
    """Flow matching at the smallest step size, and self-consistency at larger ones.

        d = 1 / M:   loss = mean |u(x_t, t, d) - (alpha' x_0 + sigma' eps)|^2
        d > 1 / M:   loss = mean |u(x_t, t, d) - stop(u_1 + u_2) / 2|^2,
                     u_1 = u_target(x_t, t, d / 2),    u_2 = u_target(x_t - d / 2 u_1, t - d / 2, d / 2)

    In the second case d is one of 2 / M, 4 / M .. 1, and t is a multiple of d, in units of t_max. Here each example
    draws its case; the authors' code assigns fixed rows of the batch.

    Facts:
        loss: mean |u - v|^2 or mean |u - stop(u_1 + u_2) / 2|^2
        networks: model and target (EMA of the model), of two times
        optimum: M Euler steps of the probability flow, merged in pairs; the flow itself as M grows
        paper: Frans et al. 2024, "One Step Diffusion via Shortcut Models", algorithm 1; the network receives 1 / M
            where the paper writes d = 0, as in the authors' code

    Args:
        M: number of steps at the smallest step size, a power of two; 128 in the paper.
        share: share of the examples with the second loss, in [0, 1]; 1/4 in the paper.
        clip: largest absolute value of x and of the target; 4 in the authors' code, no limit by default.
        clock: the time that the network receives; `time()` if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" and "duration", each `[B]`.

    Raises:
        ValueError: if M is not a power of two above 1, or share not in [0, 1].
    """
    levels = int(math.log2(M)) if M > 1 else 0
    if levels < 1 or 2**levels != M:
        raise ValueError(f"shortcut: M = {M} must be a power of two, at least 2 (128 in the paper)")
    if not traced(share) and not 0 <= share <= 1:
        raise ValueError(f"shortcut: share = {share} must be in [0, 1] (1/4 in the paper)")
    clocks = start_and_duration(clock)

    @entry()
    def loss(networks, schedule, keys, batch, step):
        noise_keys, case_keys, size_keys, time_keys = split(keys, 4)
        x_0, eps = pairs(noise_keys, batch)
        condition = batch.get("condition")
        bootstrap = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(case_keys) < share
        level = jax.vmap(lambda key: jax.random.randint(key, (), 0, levels))(size_keys)
        steps = jnp.where(bootstrap, 2**level, M)  # number of steps of size d from t_max to 0
        dtype = promoted(jax.tree.leaves(x_0)[0].dtype)
        d = schedule.t_max / steps.astype(dtype)
        number = jax.vmap(lambda key, steps: jax.random.randint(key, (), 0, steps))(time_keys, steps)
        t = d * (1 + number.astype(dtype))
        x_t = mix(schedule, t, x_0, eps)
        u = lambda network, x, t, s: mean_velocity(network, schedule, clocks, x, t, s, condition)
        teacher = frozen(networks, "target")
        half = left_broadcast(d / 2, x_t)
        u_1 = u(teacher, x_t, t, t - d / 2)
        u_2 = u(teacher, jnp.clip(x_t - half * u_1, -clip, clip), t - d / 2, t - d)
        joined = jnp.clip((u_1 + u_2) / 2, -clip, clip)
        v = velocity().target(schedule, at_each(schedule, t, x_0), x_0, eps)
        target = jax.lax.stop_gradient(jnp.where(left_broadcast(bootstrap, v), joined, v))
        return mean_square(u(player(networks, "model"), x_t, t, t - d) - target), {"t": t, "duration": d}

    return Objective(
        loss, reads=Jumps(functools.partial(flow_maps.shortcut, clock=clock), velocity(clock)), network=Trained(times=2)
    )
