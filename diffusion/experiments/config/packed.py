"""A network of pytrees as a network of vectors, for examples that are pytrees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp

from diffusion.data import packing


class PackedNetwork:
    """A module that receives and puts out pytrees, as one of vectors `[B, D]`; its other attributes are its own."""

    def __init__(self, module: Any, structure: Any):
        """Wraps a module with `init(key, x, clock, condition)` and `apply(params, x, clock, condition)` of pytrees x.

        `structure` is the pytree of the shapes of the leaves of x, without the batch.
        """
        self.module, self.structure = module, structure

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def clone(self, **changes: Any) -> "PackedNetwork":
        """The network with other fields of its module."""
        return PackedNetwork(self.module.clone(**changes), self.structure)

    def init(self, key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        """The parameters of the module."""
        return self.module.init(key, packing.unpack(x, self.structure), clock, condition)

    def apply(self, params: Any, x: jax.Array, clock: Any, condition: Any, **features: Any) -> Any:
        """The output `[B, D]`; with `features`: (that, the module's features).

        Raises:
            ValueError: if the module puts out another pytree than it receives.
        """
        output = self.module.apply(params, packing.unpack(x, self.structure), clock, condition, **features)
        seen: Any = None
        if features:
            output, seen = output
        shapes = jax.tree.map(lambda leaf: tuple(leaf.shape[1:]), output)
        if shapes != self.structure:
            raise ValueError(f"the network puts out {shapes}, and receives {self.structure}: they have to be the same")
        packed = jnp.concatenate([leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(output)], axis=1)
        return (packed, seen) if features else packed
