"""The networks beside the model of a run: the second player, the teacher, and frozen networks of features."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion.flows.flow_maps import FlowMap
from diffusion.objectives import Objective
from diffusion.parameterizations import Parameterization
from diffusion.samplers import Sampler, heun


class SecondPlayer(NamedTuple):
    """The player that trains in turn with the model.

    Attributes:
        objective: the player's objective, which says which network it trains.
        optimizer: the optimizer of that network.
        updates: how often it is updated for one update of the model, which acts at every `updates`-th step, at least 1.
        network: its module, if its architecture differs from the teacher's; None for the teacher's.
    """

    objective: Objective
    optimizer: Any
    updates: int = 1
    network: Any = None


class Teacher(NamedTuple):
    """The trained run that a run learns from, or the base that a run tunes.

    Attributes:
        path: the folder of the run; the moving average of its latest checkpoint is read when this run begins. "": the
            base teaches, without the new weights.
        parameterization: the quantity that it predicts.
        scale: the scale of the classifier-free guidance with which it teaches; 1 for no guidance.
        pairs: how many pairs of noise and sample it makes before the training.
        pair_sampler: the sampler by which it makes them.
        pair_steps: how many steps that sampler takes.
    """

    path: str
    parameterization: Parameterization
    scale: float = 1.0
    pairs: int = 0
    pair_sampler: Sampler = heun()
    pair_steps: int = 20

    def check(self) -> None:
        """Refuses a teacher that cannot be guided so, or a sampler that makes no pairs.

        Raises:
            ValueError: naming what is valid.
        """
        if self.scale != 1 and self.parameterization.channels > 1:
            raise ValueError(
                "the scale guides the output of the teacher, which includes a learned variance here. Valid: a scale "
                "of 1"
            )
        if self.pair_sampler.draws or FlowMap in self.pair_sampler.takes:
            raise ValueError(
                "this sampler cannot make pairs, because a sample must be determined by the noise that it starts "
                "from. Valid: a deterministic sampler of denoisers, e.g. heun or dpmpp_2m"
            )


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A frozen image encoder, whose features of clean pictures an objective uses, in the form of a network of the run.

    Attributes:
        module: Linen module, called with pictures [B, H, W, C] in [-1, 1]; it returns `image_features.ImageFeatures`,
            or any value with their `patches` [B, N, D]. C is its field `picture_channels`, 3 without one.
        path: the file of its weights, in this library's names; "" for the weights of its initial state.
        size: the side of the pictures that it receives, to which they are resized; 0 for no resizing.
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


@dataclasses.dataclass(frozen=True)
class Perceptual:
    """A frozen network by whose features an objective compares pictures, in the form of a network of the run.

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
