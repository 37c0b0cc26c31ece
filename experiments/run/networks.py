"""The network of a run: its initial parameters, and the function that its objective calls."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models import facts
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.autoencoders.rae_decoder import RAEDecoder
from diffusion.models.budget.counted_flops import counted_flops
from diffusion.models.layers import attention
from diffusion.models.network_inputs import inputs
from diffusion.models.text_encoders.clip import CLIP, normalised
from diffusion.training import coding


class Network(NamedTuple):
    """The functions of a network."""

    init: Callable[..., Any]  # (key, x [1, ...], clock, condition) -> parameters
    apply: Callable[..., Any]  # (parameters, x, clock, condition) -> output, in the form that its objective expects
    weights: Callable[[Any], Any]  # parameters -> the parameters of the module, in the form for `interchange.save`


def network_of(module: nn.Module) -> Network:
    """The network of a module; a backbone is called directly, and other kinds in the way of their objectives."""
    return KINDS[facts.kind(module)](module)


def flops_of(module: Any, params: Any, shape: tuple[int, ...], null: Any) -> int:
    """The operations of a module's forward pass for one example; 0 for a module that is not a backbone.

    Args:
        module: the module of the network.
        params: the parameters, or their `jax.ShapeDtypeStruct`.
        shape, null: the shape of an example and the null condition, as in `inputs`.
    """
    if facts.kind(module) != "backbone":
        return 0
    named = getattr(module, "attention", "matmul")  # a user's network may have another field of that name
    if named in ("auto", *attention.IMPLEMENTATIONS) and named != "matmul":
        module = facts.changed(module, attention="matmul")  # operations within a fused kernel are not counted
    return counted_flops(module.apply, params, *jax.eval_shape(lambda: inputs(module, shape, null)))


def _backbone(module: nn.Module) -> Network:
    """A backbone, which is called directly."""
    return Network(module.init, module.apply, lambda params: params["params"])


def _autoencoder(module: AutoencoderKL) -> Network:
    """An autoencoder; the log-variance of its pixels trains beside its parameters."""

    def init(key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        return coding.parameters(module.init(key, x)["params"])

    return Network(init, coding.kl_network(module), lambda params: params["autoencoder"])


def _decoder(module: RAEDecoder) -> Network:
    """The decoder of a representation autoencoder, which receives the features of an encoder."""

    def init(key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        grid = tuple(side // module.patch for side in x.shape[1:3])
        return module.init(key, jnp.zeros((1, *grid, module.features)))

    return Network(init, coding.decoder_network(module), lambda params: params["params"])


def _towers(module: CLIP) -> Network:
    """Two encoders, of pictures and of texts; the condition is the tokens of the text."""

    def init(key: jax.Array, x: jax.Array, clock: Any, condition: Any) -> Any:
        return module.init(key, condition["ids"], x, condition["mask"])

    def apply(params: Any, x: jax.Array, clock: Any, condition: Any) -> Any:
        return module.apply(params, condition["ids"], normalised(x), condition["mask"])

    return Network(init, apply, lambda params: params["params"])


KINDS = {"backbone": _backbone, "autoencoder": _autoencoder, "decoder": _decoder, "towers": _towers}
