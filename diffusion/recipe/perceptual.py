"""The frozen network of a run whose features an objective uses to compare pictures."""

import dataclasses
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Perceptual:
    """A network of features in the form of a network of the run, "features".

    Attributes:
        module: Linen module, called with pictures [B, H, W, C] in [-1, 1]; it returns a sequence of features [B, h, w,
            C], or an `autoencoder_terms.Perceived`.
        path: the file of its weights, in this library's names; "" for the weights of its initial state.
    """

    module: Any
    path: str = ""

    def init(self, key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        """Initial parameters, for pictures x."""
        return self.module.init(key, x)

    def apply(self, params: Any, x: jax.Array, clock: Any, condition: Any) -> Any:
        """The features of pictures x."""
        return self.module.apply(params, x)
