"""Objectives on examples of several sizes, whose condition says what is real of them."""

__all__ = ["with_padding"]

import dataclasses
from typing import Any

from diffusion import pytrees
from diffusion.objectives.entry import entry
from diffusion.objectives.objective import Objective


def with_padding(objective: Objective, shape: Any) -> Objective:
    """The objective on what is real of x, by the entry "real" of the condition, which the network receives too.

    Facts:
        loss: that of the objective it wraps, a mean over what is real
        networks: those of the objective it wraps
        optimum: that of the objective it wraps
        paper: none

    Args:
        objective: one whose losses heed a mask of padding, such as `denoising` or `flow_matching`.
        shape: of an example, or the pytree of the shapes of its leaves, see `pytrees.mask`.

    Raises:
        ValueError: if the objective takes no mask; when called, if the condition has no such entry.
    """
    objective.check_real()

    @entry(entries=None, real=True)
    def loss(networks, schedule, keys, batch, step):
        real = pytrees.real_of(batch.get("condition"), shape)
        if real is None:
            raise ValueError('with_padding needs the mask of what is real, the entry "real" of the condition')
        return objective.loss(networks, schedule, keys, {**batch, "real": real}, step)

    return dataclasses.replace(objective, loss=loss)
