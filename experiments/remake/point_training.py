"""The training of a small network on points, in one compiled scan, and the distance of two clouds of points."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion.experiments.remake.exact_pairing import Potentials, pairing
from diffusion.objectives import Objective
from diffusion.schedules import NoiseSchedule
from diffusion.training.step import example_keys


def train(
    objective: Objective,
    schedule: NoiseSchedule,
    apply: Callable[..., Any],
    params: Any,
    optimizer: optax.GradientTransformation,
    batch: Callable[[jax.Array], dict],
    steps: int,
    key: jax.Array,
) -> Any:
    """Trains the network "model" of an objective.

    Args:
        objective: the objective.
        schedule: the process.
        apply: the network, (params, x_t, clock, condition) -> output.
        params: the initial parameters of the network.
        optimizer: the optimizer.
        batch: a function key -> the batch of a step, a dictionary with "x" `[B, ...]`.
        steps: the number of steps.
        key: the training's key.

    Returns:
        The parameters after the last step.
    """
    data_key, draw_key = jax.random.split(key)

    def update(carry, step):
        params, state = carry
        rows = batch(jax.random.fold_in(data_key, step))
        keys = example_keys(draw_key, step, jnp.arange(len(rows["x"])))

        def loss(params):
            networks = {"model": lambda *inputs: apply(params, *inputs)}
            return objective.loss(networks, schedule, keys, rows, step)[0].mean()

        change, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, change), state), None

    run = jax.jit(lambda carry: jax.lax.scan(update, carry, jnp.arange(steps))[0])
    return run((params, optimizer.init(params)))[0]


def squared_transport(x: np.ndarray, y: np.ndarray, alike: Potentials | None = None) -> float:
    """The squared 2-Wasserstein distance of two clouds, by their best assignment.

    Args:
        x: the first cloud, float `[N, D]`.
        y: the second cloud, float `[N, D]`, with the same number of points.
        alike: potentials of clouds from the same distributions, which make the assignment faster, see `pairing`.
    """
    return float(np.sum((x - y[pairing(x, y, alike)]) ** 2, -1).mean())
