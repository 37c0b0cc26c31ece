"""Autoencoders as the networks that `diffusion.objectives.autoencoding` trains: (params, x, keys, condition) -> Coded.

They go into the networks of `alternating`:

    apply = {"model": coding.kl_network(vae), "critic": critic.apply, "features": lambda params, x, *_: vgg(params, x)}
    init, step = alternating(players, apply, schedule=None)
    state = init({"model": coding.parameters(params), "critic": ..., "features": ...})
"""

__all__ = ["kl_network", "parameters", "vq_network"]

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.autoencoders import latent_space, quantizers
from diffusion.objectives.autoencoding import Coded, gaussian_kl

LAST = ("decoder", "conv_out", "kernel")  # of the networks in `diffusion.models.autoencoders.encoder_decoder`


def parameters(params: Any, log_variance: float = 0.0) -> dict[str, Any]:
    """The trained parameters: those of an autoencoder, and the log-variance of its pixels.

    Args:
        params: of the autoencoder.
        log_variance: initial value.
    """
    return {"autoencoder": params, "log_variance": jnp.asarray(log_variance, jnp.float32)}


def kl_network(module: nn.Module, last: tuple[str, ...] = LAST) -> Callable[..., Coded]:
    """Encodes, draws from the posterior, and decodes.

    Args:
        module: an autoencoder whose `encode` returns `latents.Moments`.
        last: path of the kernel of its last layer.

    Returns:
        (the result of `parameters`, x [B, H, W, C], keys [B], condition, which is not used) -> Coded.
    """

    def network(params, x, keys, condition=None):
        weights = params["autoencoder"]
        moments = _call(module, weights, "encode", x)
        z = latent_space.draw(moments, keys)
        redo = lambda kernel: _call(module, _with(weights, last, kernel), "decode", z)
        kernel = _at(weights, last)
        return Coded(redo(kernel), {"kl": gaussian_kl(*moments)}, kernel, redo, params["log_variance"])

    return network


def vq_network(module: nn.Module, last: tuple[str, ...] = LAST) -> Callable[..., Coded]:
    """Encodes, takes the nearest codes, and decodes; nothing is drawn.

    Args:
        module: an autoencoder with `encode`, and `decode(z, quantize=False)`; its codes are the parameter "codebook",
            or finite levels, which have no losses.
        last: path of the kernel of its last layer.

    Returns:
        (the result of `parameters`, x [B, H, W, C], keys and condition, which are not used) -> Coded.
    """

    def network(params, x, keys=None, condition=None):
        weights = params["autoencoder"]
        z = _call(module, weights, "encode", x)
        if "codebook" in weights:
            quantized = quantizers.quantize(z, weights["codebook"])
            values = quantized.values
            penalties = {"codebook": quantized.codebook, "commitment": quantized.commitment}
        else:
            (values, _), penalties = _call(module, weights, "quantize", z), {}
        decode = lambda kernel: _call(module, _with(weights, last, kernel), "decode", values, quantize=False)
        kernel = _at(weights, last)
        return Coded(decode(kernel), penalties, kernel, decode, params["log_variance"])

    return network


def _call(module: nn.Module, params: Any, method: str, *inputs: Any, **how: Any) -> Any:
    return module.apply({"params": params}, *inputs, method=method, **how)


def _at(tree: Any, path: tuple[str, ...]) -> jax.Array:
    for name in path:
        tree = tree[name]
    return tree


def _with(tree: Any, path: tuple[str, ...], leaf: jax.Array) -> Any:
    """The tree with another leaf at a path."""
    return leaf if not path else {**tree, path[0]: _with(tree[path[0]], path[1:], leaf)}
