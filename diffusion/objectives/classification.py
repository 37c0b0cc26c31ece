"""A classifier of noised examples, for classifier guidance."""

__all__ = ["noisy_classification"]

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
    """The class of an example from the noised example: loss = -log p(y | x_t), t ~ density.

    A backbone is the classifier: it puts out K channels for each one of the data, whose means over all positions are
    the logits of the K classes, and it receives the null class.

    Facts:
        loss: -log p(y | x_t), p the softmax of the mean output
        networks: model, with K channels for each one of the data
        optimum: p(y | x_t)
        paper: Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", section 4

    Args:
        density: distribution of t.
        parameterization: the network's inputs: its clock, and the scale of its input.
        null: the null class, K; the classes are 0 .. K - 1.

    Returns:
        An objective, which makes no samples; see `diffusion.objectives.inputs`. Metrics: "t" and "accuracy" `[B]`.

    Raises:
        ValueError: if there are no classes; when called, if the batch has none.
    """
    if null is None or np.shape(null) != () or int(null) < 2:
        raise ValueError(f"noisy_classification: null = {null}. Valid: the number of classes, at least 2")
    classes = int(null)
    outputs = parameterization._replace(channels=classes)

    def log_probabilities(network, schedule, x_t, t) -> tuple[Array, Array]:
        condition = jnp.full(x_t.shape[0], classes, jnp.int32)
        output, t = evaluate(network, schedule, outputs, x_t, t, condition)
        logits = output.reshape(x_t.shape[0], -1, classes).mean(axis=1)
        return jax.nn.log_softmax(logits), t

    @entry(outputs)
    def loss(networks, schedule, keys, batch, step):
        labels = batch.get("condition")
        if labels is None:
            raise ValueError('noisy_classification needs classes, but the batch has no "condition" that holds labels')
        _, _, x_t, t, importance = noised(schedule, density, keys, batch)
        log_p, t = log_probabilities(player(networks, "model"), schedule, x_t, t)
        right = jnp.argmax(log_p, axis=1) == labels
        return -importance * _of(log_p, labels), {"t": t, "accuracy": right.astype(jnp.float32)}

    def judges(network, schedule, labels):
        return lambda x_t, t: _of(log_probabilities(network, schedule, x_t, t)[0], labels)

    return Objective(loss, reads=None, density=density, network=Trained(channels=classes, judges=judges))


def _of(log_p: Array, labels: Array) -> Array:
    return jnp.take_along_axis(log_p, jnp.asarray(labels)[:, None], axis=1)[:, 0]
