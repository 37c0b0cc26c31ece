"""Couplings: which noise goes with which data.

A coupling is a function (x0 `[B, ...]`, eps `[B, ...]`) -> eps re-paired. With any but `independent`, E[eps | x_t] is
no longer -sigma times the score, so samplers that read a score do not apply to what is trained with it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

Coupling = Callable[[Array, Array], Array]


def independent() -> Coupling:
    """Each example keeps the noise that its own key drew."""
    return lambda x0, eps: eps


def optimal_transport(block: int = 64) -> Coupling:
    """Exact minibatch optimal transport under squared Euclidean cost, within blocks of consecutive examples.

    Solved by assignment in fixed blocks of the global batch, so that the pairs do not depend on the number of devices
    or of micro-batches, as long as each holds whole blocks. Tong et al. 2024, "Improving and Generalizing Flow-Based
    Generative Models with Minibatch Optimal Transport", section 3.2.3; Pooladian et al. 2023.

    Args:
      block: number of examples that are matched among themselves, >= 2; the cost grows as its cube.

    Raises:
      ValueError: if block < 2, or, when called, if block does not divide the batch.
    """
    if block < 2:
        raise ValueError(f"optimal_transport: block = {block}; at least 2 examples can be matched")

    def couple(x0, eps):
        batch = x0.shape[0]
        if batch % block:
            raise ValueError(f"optimal_transport: the batch of {batch} is not a whole number of blocks of {block}")

        def match(x, e):
            # |x - e|^2 = |x|^2 + |e|^2 - 2 x.e, of which only the last term depends on the pairing.
            cost = -2 * x.reshape(block, -1) @ e.reshape(block, -1).T
            rows, columns = optax.assignment.hungarian_algorithm(cost)
            return e[jnp.zeros(block, columns.dtype).at[rows].set(columns)]

        blocks = lambda a: a.reshape((batch // block, block) + a.shape[1:])
        return jax.vmap(match)(blocks(x0), blocks(eps)).reshape(eps.shape)

    return couple
