"""A network of pytrees as a network of vectors, for examples that are pytrees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp

from diffusion import pytrees


class PackedNetwork:
    """A module that receives and puts out pytrees, as one of vectors `[B, D]`; its other attributes are its own."""

    def __init__(self, module: Any, structure: Any, own_times: bool = False):
        """Wraps a module with `init(key, x, clock, condition)` and `apply(params, x, clock, condition)` of pytrees x.

        `structure` is the pytree of the shapes of the leaves of x, without the batch; `own_times` says whether the
        module receives a clock for each leaf (`schedules.per_leaf`).
        """
        self.module, self.structure, self.own_times = module, structure, own_times

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def clone(self, **changes: Any) -> "PackedNetwork":
        """The network with other fields of its module."""
        return PackedNetwork(self.module.clone(**changes), self.structure, self.own_times)

    def init(self, key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        """The parameters of the module."""
        if self.own_times:
            clock = jax.tree.map(lambda each: jnp.broadcast_to(jnp.reshape(each, (-1, 1)), x.shape), clock)
        init = lambda *inputs: self.module.init(key, *inputs)
        return init(*pytrees.leaves_and_clocks(x, clock, self.structure), condition)

    def apply(self, params: Any, x: jax.Array, clock: Any, condition: Any, **features: Any) -> Any:
        """The output `[B, D]`; with `features`: (that, the module's features).

        Raises:
            ValueError: if the module puts out another pytree than it receives.
        """
        network = lambda *inputs, **more: self.module.apply(params, *inputs, **more)
        return pytrees.of_leaves(network, self.structure)(x, clock, condition, **features)
