"""Discriminators inside a score network: a block's features tell noised data from noised samples.

The logits are the means of that block's features over the channels, one for each position, without further parameters
(SiDA). The network is "fake", the score network of the generator's samples, which learns both tasks in one update, as
in DMD2. The logit that minimizes the losses below is the log-ratio of the two densities of x_t:

    D(x_t) = log(p_t(x_t) / q_t(x_t))    for noised data (p) and noised samples (q)
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.broadcasting import flattened
from diffusion.arrays.parameters import is_number, traced
from diffusion.arrays.promotion import promoted
from diffusion.objectives.backward_simulation import Simulation
from diffusion.objectives.few_step import with_features
from diffusion.parameterizations import Network, Parameterization, predict
from diffusion.schedules import NoiseSchedule


def logits_of(features: tuple[Array, ...]) -> Array:
    """`[B, K]` logits of one block: means of its features `[B, ..., C]` over the channels, one for each position."""
    (h,) = features
    return flattened(jnp.mean(h.astype(promoted(h.dtype)), axis=-1))


def judged(
    network: Network,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    x_t: Array,
    t: ArrayLike,
    condition: Any,
    block: int | None,
) -> tuple[Array, Array | None]:
    """x0 `[B, ...]` and logits `[B, K]` from one evaluation; the logits are None if block is None."""
    if block is None:
        return predict(network, schedule, parameterization, x_t, t, condition).x0, None
    judge, recorded = with_features(network, (block,))
    return predict(judge, schedule, parameterization, x_t, t, condition).x0, logits_of(recorded[0])


def fooled(logits: Array) -> Array:
    """`[B]` mean of log(1 + exp(-D)) over an example's logits: a generator's loss, or a discriminator's on data."""
    return jnp.mean(jax.nn.softplus(-logits), axis=1)


def check(name: str, block: int | None, adversarial: float, needed: bool = False) -> None:
    """Refuses a discriminator loss without a block, and a block that no loss uses.

    Args:
        name: name of the objective.
        block: index of the discriminator's block, from 1; None if there is no discriminator.
        adversarial: weight of the adversarial loss.
        needed: whether the objective also uses the logits for another purpose.

    Raises:
        ValueError: if a value is invalid; the message names it.
    """
    if not traced(adversarial) and not adversarial >= 0:
        raise ValueError(f"{name}: adversarial = {adversarial} must not be negative")
    needed = needed or not is_number(adversarial, 0)
    if block is None and needed:
        raise ValueError(
            f"{name}: block = None, but the loss needs a discriminator. Valid: the index, from 1, of the fake "
            "network's block whose features give the logits"
        )
    if block is not None and block < 1:
        raise ValueError(f"{name}: block = {block}. Valid: at least 1, the first block")
    if block is not None and not needed:
        raise ValueError(f"{name}: block = {block}, but nothing reads its logits. Valid: adversarial > 0, or no block")


def shared(samples: Simulation, block: int | None) -> tuple:
    """The settings that both players share: how samples are generated, and the discriminator's block."""
    return samples.setting if block is None else (*samples.setting, f"a discriminator in block {block}")
