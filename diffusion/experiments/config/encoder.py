"""The frozen encoder of a run, whose features of clean pictures an objective reads."""

import dataclasses
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An image encoder in the form of a network of the run.

    Attributes:
        module: Linen module, called with pictures [B, H, W, C] in [-1, 1]; it returns `image_encoders.ImageFeatures`,
            or any value with their `patches` [B, N, D].
        path: file of its weights, in this library's names; "" for those of its initial state.
        size: side of the pictures that it receives, to which they are resized; 0: as they are.
    """

    module: Any
    path: str = ""
    size: int = 0

    def init(self, key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        """Initial parameters, for pictures x."""
        return self.module.init(key, self._resized(x))

    def apply(self, params: Any, x: jax.Array, clock: Any, condition: Any) -> jax.Array:
        """The features [B, N, D] of pictures x."""
        return self.module.apply(params, self._resized(x)).patches

    def _resized(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[0], self.size, self.size, x.shape[-1])
        return jax.image.resize(x, shape, "bicubic") if self.size and x.shape != shape else x
