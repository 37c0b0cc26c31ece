"""Training on changed examples, of whose change the network is told."""

from collections.abc import Callable, Mapping

import jax
from jax import Array

from diffusion.objectives.entry import entry
from diffusion.objectives.inputs import Objective, split


def with_augmentation(objective: Objective, augment: Callable[[Array, Array], tuple[Array, Array]]) -> Objective:
    """An objective on augmented examples, with numbers on what was done to each in its condition, as "augment".

    Facts:
        loss: that of the objective it wraps
        networks: those of the objective it wraps
        optimum: that of the objective it wraps for examples as they are, where "augment" is zero
        paper: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", appendix F.2

    Args:
        objective: the objective to wrap; those that drop the condition are wrapped around this one, so that what is
            told of the augmentation stays.
        augment: (key, x [...]) -> (x [...], numbers [A]); for images `data.augmentation.edm_augmentation`.
    """

    @entry(entries=None)
    def augmented(networks, schedule, keys, batch, step):
        augment_keys, keys = split(keys, 2)
        x, told = jax.vmap(augment)(augment_keys, batch["x"])
        condition = batch.get("condition")
        if condition is not None and not isinstance(condition, Mapping):
            condition = {"label": condition}
        condition = {**(condition or {}), "augment": told}
        return objective(networks, schedule, keys, {**batch, "x": x, "condition": condition}, step)

    return augmented
