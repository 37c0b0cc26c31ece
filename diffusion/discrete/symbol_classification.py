"""Training of a classifier of noised symbols, for `discrete.classifier`."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from diffusion.discrete.bounds import noised
from diffusion.discrete.metric_paths import AnyPath
from diffusion.discrete.symbol_objectives import drawn_times
from diffusion.objectives.classification import class_log_probabilities, class_number, label_log_probabilities
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.objective import Objective
from diffusion.objectives.objective_facts import Trained
from diffusion.timesteps import Density


def noisy_symbol_classification(process: AnyPath, density: Density, null: Any) -> Objective:
    """Cross-entropy of the class given noised symbols: loss = -log p(c | x_t), t ~ density.

    The classifier is a network of symbols with an output for each class at each position; the logits are the means over
    all positions. The network receives the null class as its condition.

    Facts:
        loss: -log p(c | x_t), p the softmax of the mean output
        networks: model, with an output for each class at each position
        optimum: p(c | x_t)
        paper: Nisonoff et al. 2024, "Unlocking Guidance for Discrete State-Space Diffusion and Flow Models"; Schiff et
            al. 2024, "Simple Guidance Mechanisms for Discrete Diffusion Models", the noised classifier of D-CBG

    Args:
        process: the process of the run that the classifier guides.
        density: density of t in (0, 1).
        null: the null class, C; the classes are 0 .. C - 1.

    Returns:
        An objective for a network that is not sampled. The batch has symbols, int `[B, ...]`, as "x", and classes `[B]`
        as "condition". Metrics: "t" and "accuracy", each `[B]`.

    Raises:
        ValueError: if there are fewer than two classes; when called, if the batch has no labels, or symbols are out of
            range.
    """
    classes = class_number("noisy_symbol_classification", null)

    def log_probabilities(network: Any, x_t: Array, t: Any) -> Array:
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (len(x_t),))
        output = network(x_t, t, jnp.full(len(x_t), classes, jnp.int32))
        return class_log_probabilities(output, classes)

    @entry(symbols=True)
    def loss(networks, schedule, keys, batch, step):
        labels = batch.get("condition")
        if labels is None:
            raise ValueError('noisy_symbol_classification needs classes, but the batch has no "condition" of labels')
        x0, noise_keys, t, importance = drawn_times(process, density, schedule, keys, batch)
        log_p = log_probabilities(player(networks, "model"), noised(process, noise_keys, x0, t), t)
        right = jnp.argmax(log_p, -1) == labels
        return -importance * label_log_probabilities(log_p, labels), {"t": t, "accuracy": right.astype(jnp.float32)}

    def judges(network, schedule, labels):
        return lambda x_t, t: label_log_probabilities(log_probabilities(network, x_t, t), labels)

    network = Trained(channels=classes, judges=judges, causal=0, process=process)
    return Objective(loss, reads=None, density=density, network=network)
