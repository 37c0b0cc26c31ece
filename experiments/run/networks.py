"""The network that a run trains, from its module: how it is born, and how its objective calls it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.text_encoders.clip import CLIP, normalised
from diffusion.training import coding


class Network(NamedTuple):
    """What the train step takes.

    Attributes:
        init: (key, x [1, ...], clock, condition) -> parameters.
        apply: (parameters, x, clock, condition) -> output, as its objective expects it.
        weights: parameters -> those of the module, as `interchange.save` takes them.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    weights: Callable[[Any], Any]


def network_of(module: nn.Module) -> Network:
    """The network of a module: a backbone is called as it is; autoencoders and CLIP as their objectives do."""
    if isinstance(module, AutoencoderKL):
        return _autoencoder(module)
    if isinstance(module, CLIP):
        return _clip(module)
    return Network(module.init, module.apply, lambda params: params["params"])


def _autoencoder(module: AutoencoderKL) -> Network:
    def init(key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        return coding.parameters(module.init(key, x)["params"])

    return Network(init, coding.kl_network(module), lambda params: params["autoencoder"])


def _clip(module: CLIP) -> Network:
    def init(key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        return module.init(key, condition["ids"], x, condition["mask"])

    def apply(params: Any, x: jax.Array, clock: Any, condition: Any) -> Any:
        return module.apply(params, condition["ids"], normalised(x), condition["mask"])

    return Network(init, apply, lambda params: params["params"])
