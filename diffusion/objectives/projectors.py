"""Projectors: small networks that map a network's features to another network's, trained with the first network.

A projector is a pair of pure functions. Its input features h are tokens `[B, N, D]`, row by row, or maps `[B, H, W,
D]`; its output is tokens `[B, N, width]`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.promotion import promoted

xavier = jax.nn.initializers.xavier_uniform()


class Projector(NamedTuple):
    """A small network on features.

    Attributes:
        init: (key, D, width) -> parameters.
        apply: (parameters, h, shape of a picture (H, W, C)) -> tokens `[B, N, width]`, float32.
    """

    init: Callable[[Array, int, int], Any]
    apply: Callable[[Any, Array, tuple[int, ...]], Array]


def tokens(h: Array) -> Array:
    """Features as tokens `[B, N, D]`, float32."""
    return h.reshape(h.shape[0], math.prod(h.shape[1:-1]), h.shape[-1]).astype(promoted(h.dtype))


def mlp(hidden: int = 2048) -> Projector:
    """REPA's projector: three dense layers with SiLU between them, on each token.

    Args:
        hidden: width of the hidden layers, >= 1; 2048 in the paper.

    Raises:
        ValueError: if hidden is below 1.
    """
    if hidden < 1:
        raise ValueError(f"mlp: hidden = {hidden} must be at least 1 (2048 in the paper)")

    def init(key, features, width):
        sizes = (features, hidden, hidden, width)
        layers = zip(jax.random.split(key, 3), sizes, sizes[1:])
        return {
            f"dense_{i}": {"kernel": xavier(key, (a, b), jnp.float32), "bias": jnp.zeros(b, jnp.float32)}
            for i, (key, a, b) in enumerate(layers)
        }

    def apply(params, h, shape):
        h = tokens(h)
        for i in range(3):
            h = h if i == 0 else jax.nn.silu(h)
            h = h @ params[f"dense_{i}"]["kernel"] + params[f"dense_{i}"]["bias"]
        return h

    return Projector(init, apply)


def convolution(side: int = 3) -> Projector:
    """iREPA's projector: one convolution over the grid of tokens, which preserves their neighbourhoods.

    Args:
        side: side of the kernel, odd and >= 1; 3 in the paper.

    Raises:
        ValueError: if side is not a positive odd number.
    """
    if side < 1 or side % 2 == 0:
        raise ValueError(f"convolution: side = {side} must be odd and positive (3 in the paper)")

    def init(key, features, width):
        bound = 1 / math.sqrt(features * side**2)  # PyTorch's default, as in the authors' code
        draw = lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)
        kernel_key, bias_key = jax.random.split(key)
        return {"kernel": draw(kernel_key, (side, side, features, width)), "bias": draw(bias_key, (width,))}

    def apply(params, h, shape):
        grid = _grid(tokens(h).shape[1], shape)
        h = tokens(h).reshape(h.shape[0], *grid, h.shape[-1])
        axes = ("NHWC", "HWIO", "NHWC")
        return (
            tokens(jax.lax.conv_general_dilated(h, params["kernel"], (1, 1), "SAME", dimension_numbers=axes))
            + (params["bias"])
        )

    return Projector(init, apply)


def final_layer() -> Projector:
    """The last layer of a diffusion transformer, modulated by its own input silu(h), with an initial output of zero.

        c = silu(h),    (shift, scale) = dense(silu(c)),    out = dense(norm(c) (1 + scale) + shift)

    Reference: Singh et al. 2026, "Improved Baselines with Representation Autoencoders", the authors' code.
    """

    def init(key, features, width):
        zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
        return {
            "norm": {"scale": jnp.ones(features, jnp.float32)},
            "modulation": {"kernel": zeros(features, 2 * features), "bias": zeros(2 * features)},
            "dense": {"kernel": zeros(features, width), "bias": zeros(width)},
        }

    def apply(params, h, shape):
        dense = lambda name, h: h @ params[name]["kernel"] + params[name]["bias"]
        c = jax.nn.silu(tokens(h))
        shift, scale = jnp.split(dense("modulation", jax.nn.silu(c)), 2, axis=-1)
        normed = c * jax.lax.rsqrt(jnp.mean(jnp.square(c), axis=-1, keepdims=True) + 1e-6) * params["norm"]["scale"]
        return dense("dense", normed * (1 + scale) + shift)

    return Projector(init, apply)


def untokens(values: Array, shape: tuple[int, ...]) -> Array:
    """Pictures `[B, H, W, C]` from the tokens `[B, N, p p C]` of their patches, row by row.

    Raises:
        ValueError: if the tokens do not form a grid of pictures of this shape (H, W, C), or have a wrong number of
            values.
    """
    rows, columns = _grid(values.shape[1], shape)
    height, width, channels = shape
    side = height // rows
    if values.shape[2] != side**2 * channels:
        raise ValueError(
            f"tokens with {values.shape[2]} values cannot be patches of {side} x {side} of examples {shape}"
        )
    parts = values.reshape(len(values), rows, columns, side, side, channels)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(len(values), height, width, channels)


def _grid(number: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """The number of rows and columns into which the tokens of pictures (H, W, C) are arranged.

    Raises:
        ValueError: if they form no grid with the pictures' aspect ratio.
    """
    rows = round(math.sqrt(number * shape[0] / shape[1])) if len(shape) == 3 else 0
    if rows == 0 or number % rows or rows * shape[1] != number // rows * shape[0]:
        raise ValueError(
            f"projector: the {number} features of examples of shape {shape} form no grid with that aspect ratio"
        )
    return rows, number // rows
