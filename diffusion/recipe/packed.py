"""A network for pytrees as a network for vectors, for examples that are pytrees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp

from diffusion.arrays import pytrees
from diffusion.models import facts


class PackedNetwork:
    """A module of pytrees as a network of vectors `[B, D]`, with all other attributes of the module."""

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
        return PackedNetwork(facts.changed(self.module, **changes), self.structure, self.own_times)

    def init(self, key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        """The parameters of the module.

        Raises:
            ValueError: if the module cannot take a pytree; its own error is the cause.
        """
        inputs = pytrees.leaves_and_clocks(x, self._clock(x, clock), self.structure)
        try:
            return self.module.init(key, *inputs, condition)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the network {type(self.module).__name__} fails on an example that is the pytree {self.structure}: "
                f"{error}. Valid: a network that takes the pytree; docs/pytrees.md has one"
            ) from error

    def apply(self, params: Any, x: jax.Array, clock: Any, condition: Any, **features: Any) -> Any:
        """The output `[B, D]`; with `features`: (that, the module's features).

        Raises:
            ValueError: if the module returns another pytree than it receives.
        """
        network = lambda *inputs, **more: self.module.apply(params, *inputs, **more)
        return pytrees.vector_network(network, self.structure)(x, self._clock(x, clock), condition, **features)

    def _clock(self, x: jax.Array, clock: Any) -> Any:
        """One clock for each number where leaves have separate times, even if one clock was given for all."""
        if not self.own_times:
            return clock
        per_number = lambda clock: (
            clock if jnp.ndim(clock) > 1 else jnp.broadcast_to(jnp.reshape(clock, (-1, 1)), x.shape)
        )
        return jax.tree.map(per_number, clock)
