"""Learned uncertainty weighting: every noise level contributes equally, however large its loss is."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.arguments import require_shape
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.objective import Objective, check_objective
from diffusion.objectives.objective_facts import Head
from diffusion.parameterizations import log_sigma
from diffusion.schedules.noise_schedule import inside_times, leaf_schedules


class Uncertainty(NamedTuple):
    """A network that predicts the logarithm of the loss from the noise level.

    Attributes:
        init: () -> parameters.
        apply: (parameters, clock `[B]`) -> u `[B]`, where the clock is ln(sigma / alpha) / 4.
    """

    init: Callable[[], Mapping[str, Array]]
    apply: Callable[[Mapping[str, Array], Array], Array]


def uncertainty(channels: int = 128, seed: int = 0) -> Uncertainty:
    """EDM2's network u: one linear layer on random Fourier features of ln(sigma / alpha) / 4.

        u = sum_i w_i sqrt(2) cos(f_i ln(sigma / alpha) / 4 + phi_i),    f_i ~ N(0, (2 pi)^2), phi_i ~ U(0, 2 pi)

    The frequencies are fixed. The weights start at zero, so that u = 0; the authors' code normalises the weights.
    Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", appendix B.

    Args:
        channels: number of features; 128 in the authors' code.
        seed: seed of the frequencies; keep it when a run is resumed.

    Raises:
        ValueError: if channels is below 1.
    """
    if channels < 1:
        raise ValueError(f"uncertainty: channels = {channels} must be at least 1 (128 in the authors' code)")
    generator = np.random.default_rng(seed)
    frequencies = 2 * np.pi * generator.standard_normal(channels).astype(np.float32)
    phases = 2 * np.pi * generator.random(channels).astype(np.float32)

    def apply(params, clock):
        features = math.sqrt(2) * jnp.cos(clock[..., None] * frequencies + phases)
        return features @ params["weight"]

    return Uncertainty(lambda: {"weight": jnp.zeros(channels, jnp.float32)}, apply)


def with_uncertainty(objective: Objective, network: Uncertainty | None = None) -> Objective:
    """Divides each loss by a second network's prediction of it, and trains that network too.

        loss' = loss / exp(u) + u,    u = uncertainty(ln(sigma / alpha) / 4)

    The model thus receives the gradient of the loss relative to its size at each noise level. At alpha = 0 and sigma =
    0, where ln(sigma / alpha) is infinite, u is taken at a time just inside. The second network is
    `networks["uncertainty"]`, called like any network but with x_t and condition None: `lambda x_t, clock, condition:
    pair.apply(params, clock)` with the pair `uncertainty()`.

    Facts:
        loss: loss / exp(u) + u
        networks: the objective's, uncertainty
        optimum: the objective's, and u = ln E[loss | t], where the loss is 1 + u
        paper: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", eq. 21; Kendall
            et al. 2018

    Args:
        objective: the objective to wrap, with one time for each example.
        network: the second network, which a run then trains with the model; None if the caller trains it.

    Returns:
        An objective with the metrics of the wrapped one, "unweighted" `[B]`, the wrapped losses, and "uncertainty"
        `[B]`.
    """
    check_objective(objective)

    @entry(entries=None, real=True)
    def weighted(networks: Mapping[str, Any], schedule, keys, batch, step):
        predict = player(networks, "uncertainty")
        losses, metrics = objective(networks, schedule, keys, batch, step)
        if metrics["t"].shape != losses.shape:
            raise ValueError(
                "with_uncertainty needs one time for each example; the objective's times have the shape "
                f"{metrics['t'].shape}, and its losses {losses.shape}"
            )
        # If leaves have a schedule each, the clock is the mean of their noise levels.
        levels = [log_sigma()(leaf, inside_times(leaf, metrics["t"])) for leaf in leaf_schedules(schedule)]
        u = predict(None, sum(levels) / len(levels), None)
        require_shape(u, losses.shape, 'with_uncertainty: the output of "uncertainty", one number for each example,')
        return losses / jnp.exp(u) + u, {**metrics, "unweighted": losses, "uncertainty": u}

    heads = dict(objective.heads)
    if network is not None:
        by_clock = lambda params, x, clock, condition: network.apply(params, clock)
        heads["uncertainty"] = Head(None, lambda key, *sizes: network.init(), by_clock)
    return dataclasses.replace(objective, loss=weighted, heads=heads)
