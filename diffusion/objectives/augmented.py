"""Training on augmented examples, with a description of the augmentation in the network's condition."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
from jax import Array

from diffusion.objectives.entry import entry
from diffusion.objectives.inputs import conditioned, split
from diffusion.objectives.objective import Objective, check_objective


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A random change of an example, and numbers that describe the change, which the network receives.

    Attributes:
        change: (key, x [...]) -> (augmented x [...], numbers [A]); the numbers are zero if x is unchanged.
        numbers: number A of values that describe an augmentation.
    """

    change: Callable[[Array, Array], tuple[Array, Array]]
    numbers: int

    def __call__(self, key: Array, x: Array) -> tuple[Array, Array]:
        return self.change(key, x)


def with_augmentation(objective: Objective, augment: Augmentation) -> Objective:
    """The objective on augmented examples; the condition's entry "augment" describes each augmentation.

    Facts:
        loss: the wrapped objective's
        networks: the wrapped objective's
        optimum: where "augment" is zero, the wrapped objective's for examples without augmentation
        paper: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", appendix F.2

    Args:
        objective: the objective to wrap. Wrap condition dropout around this one, so that it does not drop "augment".
        augment: the augmentation; for images `data.augmentation.edm_augmentation`.

    Raises:
        ValueError: if the objective is one of pairs; when called, if the objective reads features of the examples and
            the batch holds those of the examples without augmentation.
    """
    check_objective(objective)

    if objective.examples.pairs:
        raise ValueError(
            "augmentation: the two examples of a pair would be augmented with different draws. Valid: augment the "
            "data, by data.augment"
        )

    @entry(entries=None)
    def augmented(networks, schedule, keys, batch, step):
        if objective.beside.encoder and "features" in batch:
            raise ValueError(
                'augmentation: the "features" of the batch are those of examples without augmentation. Valid: the '
                'network "encoder" in place of computed features, or data.augment'
            )
        augment_keys, keys = split(keys, 2)
        x, numbers = jax.vmap(augment)(augment_keys, batch["x"])
        condition = batch.get("condition")
        if condition is not None and not isinstance(condition, Mapping):
            condition = {"label": condition}
        condition = {**(condition or {}), "augment": numbers}
        return objective(networks, schedule, keys, {**conditioned(batch, condition), "x": x}, step)

    condition = objective.condition._replace(augmentations=augment.numbers)
    examples = objective.examples._replace(real=False)
    return dataclasses.replace(objective, loss=augmented, condition=condition, examples=examples)
