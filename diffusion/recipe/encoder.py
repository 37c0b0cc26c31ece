"""The frozen encoder of a run, whose features of clean pictures an objective uses."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An image encoder in the form of a network of the run.

    Attributes:
        module: Linen module, called with pictures [B, H, W, C] in [-1, 1]; it returns `image_encoders.ImageFeatures`,
            or any value with their `patches` [B, N, D]. C is its field `picture_channels`, 3 without one.
        path: the file of its weights, in this library's names; "" for the weights of its initial state.
        size: the side of the pictures that it receives, to which they are resized; 0: as they are.
        cached: whether its features come with the examples, as their "features", so that the run does not compute them.
    """

    module: Any
    path: str = ""
    size: int = 0
    cached: bool = False

    @property
    def channels(self) -> int:
        """The channels of the pictures that it receives."""
        return getattr(self.module, "picture_channels", 3)

    def init(self, key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        """Initial parameters, for pictures x."""
        return self.module.init(key, self._resized(x))

    def apply(self, params: Any, x: jax.Array, clock: Any, condition: Any) -> jax.Array:
        """The features [B, N, D] of pictures x."""
        return self.module.apply(params, self._resized(x)).patches

    def features(self, params: Any = None) -> tuple[int, int]:
        """(N, D) of a picture of its size; nothing is computed.

        Args:
            params: parameters of the module, as `init` returns them; None: the parameters of its initial state.

        Raises:
            ValueError: for a size that the module does not take, with its message.
        """
        x = jax.ShapeDtypeStruct((1, self.size, self.size, self.channels), jnp.float32)
        if params is None:
            params = jax.eval_shape(lambda x: self.init(jax.random.key(0), x, None, None), x)
        return jax.eval_shape(self.apply, params, x, None, None).shape[1:]

    def _resized(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[0], self.size, self.size, x.shape[-1])
        return jax.image.resize(x, shape, "bicubic") if self.size and x.shape != shape else x
