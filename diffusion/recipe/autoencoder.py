"""The autoencoder that is trained together with the model of a run, which is trained on its latents."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.objectives.end_to_end import NAME, Latents, restored
from diffusion.training import coding
from diffusion.training.step import HEADS


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """An autoencoder in the form that `objectives.end_to_end` takes.

    Attributes:
        module: Linen module with `encode`, which returns `latent_space.Moments`, `decode`, and the fields
            `picture_channels`, `latent_channels`, `scale` and `shift`, as `AutoencoderKL`.
        path: folder or file of the weights that it begins with; "" for initial ones.
    """

    module: nn.Module
    path: str = ""

    def latents(self) -> Latents:
        """The functions of the autoencoder, and the statistics that its scale and shift stand for."""
        module: Any = self.module
        network = coding.kl_network(module)

        def init(key: jax.Array) -> Any:
            side = module.factor
            return coding.parameters(module.init(key, jnp.zeros((1, side, side, module.picture_channels)))["params"])

        by_channel = lambda value: jnp.broadcast_to(jnp.asarray(value, jnp.float32), (module.latent_channels,))
        return Latents(init, network, by_channel(module.shift), by_channel(module.scale) ** -2)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(h, w, D) of the latent of a picture (H, W, C); nothing is computed.

        Raises:
            ValueError: for pictures that it does not take.
        """
        module: Any = self.module
        if len(shape) != 3 or shape[-1] != module.picture_channels or any(side % module.factor for side in shape[:2]):
            raise ValueError(
                f"the autoencoder does not take examples of {tuple(shape)}. Valid: pictures of "
                f"{module.picture_channels} channels whose sides {module.factor} divides"
            )
        return (shape[0] // module.factor, shape[1] // module.factor, module.latent_channels)

    def trained(self, params: Any) -> tuple[nn.Module, Any]:
        """(module, its parameters) of a run; its scale and shift are the run's statistics of the latents."""
        head = params[HEADS][NAME]
        deviation = np.sqrt(np.asarray(head["var"], np.float64))
        module = self.module.clone(
            scale=tuple((1 / deviation).tolist()), shift=tuple(np.asarray(head["mean"]).tolist())
        )
        return module, weights(params)

    def decode(self, params: Any, x: jax.Array) -> jax.Array:
        """The pictures `[B, H, W, C]` of the model's samples, by the run's parameters."""
        head = params[HEADS][NAME]
        z = restored(x, head["mean"], head["var"])
        pictures: Any = self.module.apply({"params": weights(params)}, z, method="decode")
        return pictures


def weights(params: Any) -> Any:
    """The parameters of the autoencoder among the parameters of a run."""
    return params[HEADS][NAME]["network"]["autoencoder"]


def with_weights(params: Any, new: Any) -> Any:
    """The parameters of a run with other weights of the autoencoder."""
    head = params[HEADS][NAME]
    head = {**head, "network": {**head["network"], "autoencoder": new}}
    return {**params, HEADS: {**params[HEADS], NAME: head}}
