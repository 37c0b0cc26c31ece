"""Prior preservation: a model keeps its knowledge of a class while it learns one member of the class."""

import dataclasses

from diffusion.arrays.parameters import traced
from diffusion.objectives.entry import ROWS, entry
from diffusion.objectives.inputs import split
from diffusion.objectives.objective import Objective, check_objective
from diffusion.objectives.objective_facts import Prior


def with_prior_preservation(
    objective: Objective, weight: float = 1.0, prompt: str = "", number: int = 200
) -> Objective:
    """An objective that trains on each example together with an example of its class.

        loss = l(x, c) + weight l(x_prior, c_prior),    each with its own time and noise

    The examples of the class are the batch's entry "prior", {"x" `[B, ...]`, "condition"}: samples that the model
    generated from the class's prompt before the training. They share the batch's indices and states, but neither its
    noise nor its features.

    Facts:
        loss: the weighted sum of the wrapped objective's two losses
        networks: the wrapped objective's
        optimum: the wrapped objective's, on both kinds of examples
        paper: Ruiz et al. 2023, "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation",
            eq. 2

    Args:
        objective: the objective to wrap.
        weight: weight of the prior's loss, lambda >= 0; 1 in the paper.
        prompt: prompt of the class, from which a tuning run generates pictures before the training; "" if the caller
            puts the examples of the class into the batch.
        number: number of these pictures, at least 1; 200 by default.

    Returns:
        An objective, with the metrics of the examples; "prior" `[B]` is the loss on the examples of the class.

    Raises:
        ValueError: if the weight is negative, or there are no pictures.
    """
    check_objective(objective)
    if not traced(weight) and not weight >= 0:
        raise ValueError(f"prior preservation: weight = {weight} must be at least 0; 1 is usual")
    if number < 1:
        raise ValueError(f"prior preservation: number = {number} must be at least 1; 200 is usual")

    @entry(entries=None)
    def both(networks, schedule, keys, batch, step):
        if "prior" not in batch:
            raise ValueError('prior preservation needs examples of the class, but the batch has no entry "prior"')
        keys, prior_keys = split(keys, 2)
        rest = {name: leaf for name, leaf in batch.items() if name != "prior"}
        losses, metrics = objective.loss(networks, schedule, keys, rest, step)
        shared = {name: leaf for name, leaf in rest.items() if name not in ROWS or name == "index"}
        prior, _ = objective.loss(networks, schedule, prior_keys, shared | dict(batch["prior"]), step)
        return losses + weight * prior, {**metrics, "prior": prior}

    beside = objective.beside._replace(prior=Prior(prompt, number))
    return dataclasses.replace(objective, loss=both, beside=beside, examples=objective.examples._replace(real=False))
