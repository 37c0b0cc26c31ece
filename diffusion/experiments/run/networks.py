"""The network that a run trains, from its module: its initial parameters, and how its objective calls it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from diffusion.models import facts
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
    """The network of a module: a backbone is called as it is; the other kinds as their objectives do."""
    return KINDS[facts.kind(module)](module)


def _backbone(module: nn.Module) -> Network:
    return Network(module.init, module.apply, lambda params: params["params"])


def _autoencoder(module: AutoencoderKL) -> Network:
    def init(key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        return coding.parameters(module.init(key, x)["params"])

    return Network(init, coding.kl_network(module), lambda params: params["autoencoder"])


def _towers(module: CLIP) -> Network:
    def init(key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        return module.init(key, condition["ids"], x, condition["mask"])

    def apply(params: Any, x: jax.Array, clock: Any, condition: Any) -> Any:
        return module.apply(params, condition["ids"], normalised(x), condition["mask"])

    return Network(init, apply, lambda params: params["params"])


KINDS = {"backbone": _backbone, "autoencoder": _autoencoder, "towers": _towers}
