"""Pictures as tokens, one for each patch, and back: how a diffusion transformer begins and ends."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import patchify, unpatchify
from diffusion.models.layers.blocks import modulated_output, xavier
from diffusion.models.layers.embeddings import sincos_positions


def embedded_patches(
    x: jax.Array,
    patch: int,
    width: int,
    dtype: str,
    sincos: bool = False,
    narrow: Callable[[jax.Array], jax.Array] | None = None,
    init: Callable = xavier,
    name: str = "patch_embedding",
) -> jax.Array:
    """The tokens of pictures [B, H, W, C] as a transformer receives them, [B, N, width].

    Called inside the network's `__call__`, one of whose layers has the name `name`.

    Args:
        x: pictures.
        patch: side of a patch in pixels.
        width: number of features of a token.
        dtype: compute type.
        sincos: whether the sin-cos embedding of their positions is added.
        narrow: layer between the pixels of a patch and its embedding; None for none.
        init: initialisation of the embedding's weights.
        name: name of the embedding among the network's layers.
    """
    tokens = patchify(x, patch)
    tokens = tokens if narrow is None else narrow(tokens)
    tokens = nn.Dense(width, dtype=dtype, kernel_init=init, name=name)(tokens)
    if sincos:
        positions = sincos_positions(x.shape[1] // patch, x.shape[2] // patch, width)
        tokens = tokens + jnp.asarray(positions, tokens.dtype)
    return tokens


def picture_output(
    tokens: jax.Array,
    c: jax.Array | None,
    norm: Callable[[jax.Array], jax.Array],
    patch: int,
    shape: tuple[int, ...],
    dtype: Any,
    learn_sigma: bool = False,
    **how: Any,
) -> jax.Array:
    """The pictures that the tokens of patches become by `modulated_output`, float32 [B, H, W, C].

    Args:
        tokens: [B, N, D].
        c: the condition, [B, D], or [B, N, D] for each token; None with `vectors`.
        norm: normalisation of the last axis.
        patch: side of a patch in pixels.
        shape: shape of the pictures, [B, H, W, C].
        dtype: compute type of the modulation.
        learn_sigma: whether the output has 2 C channels.
        **how: the arguments `vectors` and `bias` of `modulated_output`.
    """
    _, height, width, channels = shape
    outputs = patch**2 * channels * (2 if learn_sigma else 1)
    return unpatchify(modulated_output(tokens, c, norm, outputs, dtype, **how), patch, height, width)
