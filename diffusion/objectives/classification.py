"""A classifier of noised examples, for classifier guidance."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import noised
from diffusion.objectives.objective import Objective
from diffusion.objectives.objective_facts import Trained
from diffusion.parameterizations import Parameterization, evaluate
from diffusion.timesteps import Density


def noisy_classification(density: Density, parameterization: Parameterization, null: Any) -> Objective:
    """Cross-entropy of the class given the noised example: loss = -log p(y | x_t), t ~ density.

    Any backbone can be the classifier: it has K output channels for each channel of the data, and their means over all
    positions are the logits of the K classes. It receives the null class as its condition.

    Facts:
        loss: -log p(y | x_t), p the softmax of the mean output
        networks: model, with K output channels for each channel of the data
        optimum: p(y | x_t)
        paper: Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", section 4

    Args:
        density: distribution of t.
        parameterization: the parameterization that defines the network's clock and the scale of its input.
        null: the null class, K; the classes are 0 .. K - 1.

    Returns:
        An objective of a network that is not sampled; see `diffusion.objectives.inputs`. Metrics: "t" and "accuracy"
        `[B]`.

    Raises:
        ValueError: if there are fewer than two classes; when called, if the batch has no labels.
    """
    classes = class_number("noisy_classification", null)
    outputs = parameterization._replace(channels=classes)

    def log_probabilities(network, schedule, x_t, t) -> tuple[Array, Array]:
        condition = jnp.full(x_t.shape[0], classes, jnp.int32)
        output, t = evaluate(network, schedule, outputs, x_t, t, condition)
        return class_log_probabilities(output, classes), t

    @entry(outputs)
    def loss(networks, schedule, keys, batch, step):
        labels = batch.get("condition")
        if labels is None:
            raise ValueError('noisy_classification needs classes, but the batch has no "condition" that holds labels')
        _, _, x_t, t, importance = noised(schedule, density, keys, batch)
        log_p, t = log_probabilities(player(networks, "model"), schedule, x_t, t)
        right = jnp.argmax(log_p, axis=1) == labels
        return -importance * label_log_probabilities(log_p, labels), {"t": t, "accuracy": right.astype(jnp.float32)}

    def judges(network, schedule, labels):
        return lambda x_t, t: label_log_probabilities(log_probabilities(network, schedule, x_t, t)[0], labels)

    return Objective(loss, reads=None, density=density, network=Trained(channels=classes, judges=judges))


def class_number(objective: str, null: Any) -> int:
    """The number of classes, which equals the index of the null class.

    Args:
        objective: name of the objective, for the error.
        null: the null class of a run.

    Raises:
        ValueError: if there are fewer than two classes.
    """
    if null is None or np.shape(null) != () or int(null) < 2:
        raise ValueError(f"{objective}: null = {null}. Valid: the number of classes, at least 2")
    return int(null)


def class_log_probabilities(output: Array, classes: int) -> Array:
    """`[B, K]` log p(y | x_t) of all classes, from a network's output `[B, ..., K]`, whose means are the logits."""
    return jax.nn.log_softmax(output.reshape(len(output), -1, classes).mean(1))


def label_log_probabilities(log_p: Array, labels: Array) -> Array:
    """`[B]` log p of each example's class, from log-probabilities `[B, K]` and labels int `[B]`."""
    return jnp.take_along_axis(log_p, jnp.asarray(labels)[:, None], axis=1)[:, 0]
