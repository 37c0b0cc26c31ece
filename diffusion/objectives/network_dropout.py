"""Training of networks with dropout: the keys of its draws."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.objectives.entry import entry
from diffusion.objectives.inputs import split
from diffusion.objectives.objective import Objective, check_objective
from diffusion.parameterizations import Network


def with_dropout(objective: Objective) -> Objective:
    """An objective that passes a dropout key for each example to the trained network.

    All calls of the network in one evaluation of the loss drop the same features of an example, also those of the
    moving average "target", as in the code of consistency models.

    Facts:
        loss: the wrapped objective's
        networks: the wrapped objective's; the trained one, and "target", also take `dropout_keys` [B]
        optimum: the wrapped objective's
        paper: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting"; for the
            shared draws: Song and Dhariwal 2023, "Improved Techniques for Training Consistency Models", section 3.1

    Args:
        objective: the objective to wrap. Its other networks are called without keys.
    """
    check_objective(objective)

    @entry(entries=None, real=True)
    def drawn(networks, schedule, keys, batch, step):
        dropout_keys, keys = split(keys, 2)
        names = networks.keys() & {objective.network.name, "target"}
        drawing = {name: _drawing(networks[name], dropout_keys) for name in names}
        return objective.loss({**networks, **drawing}, schedule, keys, batch, step)

    return dataclasses.replace(objective, loss=drawn)


def _drawing(network: Network, keys: Array) -> Network:
    """The network with dropout keys, for the x of a batch, or for several concatenated copies of a batch."""

    def call(x, *inputs, **more):
        rows = len(jax.tree.leaves(x)[0])
        copies, rest = divmod(rows, len(keys))
        if rest or not copies:
            raise ValueError(
                f"dropout: the loss calls the network on {rows} examples, but there are keys for {len(keys)}. Valid: "
                "the examples of the batch, or several copies of them"
            )
        return network(x, *inputs, dropout_keys=jnp.concatenate([keys] * copies), **more)

    return call
