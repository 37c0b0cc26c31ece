"""Objectives on examples of several sizes, whose condition says what is real of them."""

__all__ = ["with_padding"]

import dataclasses
from typing import Any

from diffusion.arrays import pytrees
from diffusion.objectives.entry import entry
from diffusion.objectives.objective import Objective


def with_padding(objective: Objective, shape: Any) -> Objective:
    """The objective on what is real of x, by the entry "real" of the condition, which the network receives too.

    Facts:
        loss: the wrapped objective's, a mean over the real values
        networks: the wrapped objective's
        optimum: the wrapped objective's
        paper: none

    Args:
        objective: objective whose losses heed a mask of padding, such as `denoising` or `flow_matching`.
        shape: shape of an example, or the pytree of its leaves' shapes, see `pytrees.mask`.

    Raises:
        ValueError: if the objective takes no mask; when called, if the condition has no such entry.
    """
    objective.check_real()

    @entry(entries=None, real=True)
    def loss(networks, schedule, keys, batch, step):
        real = pytrees.real_of(batch.get("condition"), shape)
        if real is None:
            raise ValueError('with_padding needs the entry "real" of the condition, the mask of what is not padding')
        return objective.loss(networks, schedule, keys, {**batch, "real": real}, step)

    return dataclasses.replace(objective, loss=loss)
