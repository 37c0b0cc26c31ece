"""Autoencoders as the networks that `diffusion.objectives.autoencoding` trains: (params, x, keys, condition) -> Coded.

They go into the networks of `alternating`:

    apply = {"model": coding.kl_network(vae), "critic": critic.apply, "features": lambda params, x, *_: vgg(params, x)}
    init, step = alternating(players, apply, schedule=None)
    state = init({"model": coding.parameters(params), "critic": ..., "features": ...})
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.autoencoders import latent_space, quantizers
from diffusion.objectives.autoencoder_terms import Coded, gaussian_kl

# Kernels of the networks in `diffusion.models.autoencoders.encoder_decoder`.
LAST = ("decoder", "conv_out", "kernel")
FIRST = ("encoder", "conv_out", "kernel")
LAST_OF_DECODER = ("out", "kernel")  # the kernel in a representation autoencoder


def parameters(params: Any, log_variance: float = 0.0) -> dict[str, Any]:
    """The trained parameters: an autoencoder's, and the log-variance of its pixels.

    Args:
        params: the autoencoder's parameters.
        log_variance: its initial value.
    """
    return {"autoencoder": params, "log_variance": jnp.asarray(log_variance, jnp.float32)}


def kl_network(module: nn.Module, last: tuple[str, ...] = LAST, first: tuple[str, ...] = FIRST) -> Callable[..., Coded]:
    """Encodes, draws from the posterior, and decodes.

    Args:
        module: an autoencoder whose `encode` returns `latent_space.Moments`.
        last: the path of the kernel of its last layer.
        first: the path of the kernel of its encoder's last layer.

    Returns:
        (the result of `parameters`, x [B, H, W, C], keys [B], condition, which is not used, transform=None) -> Coded;
        where there is a `transform`, transform(latents) is decoded in their place.
    """

    def network(params, x, keys, condition=None, transform=None):
        weights = params["autoencoder"]
        moments = _call(module, weights, "encode", x)
        z = latent_space.draw(moments, keys)
        decoded = z if transform is None else transform(z)
        redo = lambda kernel: _call(module, _with(weights, last, kernel), "decode", decoded)

        def recode(kernel):
            drawn = latent_space.draw(_call(module, _with(weights, first, kernel), "encode", x), keys)
            return _call(module, weights, "decode", drawn), drawn

        kernel = _at(weights, last)
        penalties = {"kl": gaussian_kl(*moments)}
        log_variance = params["log_variance"]
        last_of_encoder = _at(weights, first) if first[0] in weights else None
        return Coded(redo(kernel), penalties, kernel, redo, log_variance, z, last_of_encoder, recode)

    return network


def decoder_network(module: nn.Module) -> Callable[..., Coded]:
    """Decodes the features of patches.

    Args:
        module: a decoder [B, h, w, C] -> pictures, with its `patch`, whose last layer has its kernel at
            `LAST_OF_DECODER`.

    Returns:
        (its variables, features [B, N, C], keys and condition, which are not used, size=(H, W) of the pictures) ->
        Coded.
    """

    def network(variables, features, keys=None, condition=None, *, size):
        weights = variables["params"]
        grid = tuple(side // module.patch for side in size)
        if features.shape[1] != grid[0] * grid[1] or any(side % module.patch for side in size):
            raise ValueError(
                f"the encoder has {features.shape[1]} patches for a picture, but the decoder makes pictures of "
                f"{size[0]} x {size[1]} from patches of {module.patch} x {module.patch}. Valid: an encoder.size that "
                "gives as many patches"
            )
        z = features.reshape(len(features), *grid, -1)
        apply: Any = module.apply
        redo = lambda kernel: apply({"params": _with(weights, LAST_OF_DECODER, kernel)}, z)
        kernel = _at(weights, LAST_OF_DECODER)
        return Coded(redo(kernel), {}, kernel, redo)

    return network


def vq_network(module: nn.Module, last: tuple[str, ...] = LAST) -> Callable[..., Coded]:
    """Encodes, takes the nearest codes, and decodes; nothing is drawn.

    Args:
        module: an autoencoder with `encode`, and `decode(z, quantize=False)`; its codes are the parameter "codebook",
            or finite levels, which have no losses.
        last: the path of the kernel of its last layer.

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
    return functools.reduce(operator.getitem, path, tree)


def _with(tree: Any, path: tuple[str, ...], leaf: jax.Array) -> Any:
    """The tree with another leaf at a path."""
    return leaf if not path else {**tree, path[0]: _with(tree[path[0]], path[1:], leaf)}
