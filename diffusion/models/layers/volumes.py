"""Convolutions of volumes as sums of convolutions of planes, which are faster on CPU."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def by_planes(
    x: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **options: Any
) -> Array:
    """A convolution of stride 1 over three axes: for each depth of the kernel, one of all planes, and their sum.

        y[d] = sum_i conv(x[d + i], k[i])

    It takes the arguments of `jax.lax.conv_general_dilated`, as `flax.linen.Conv` passes them.

    Args:
        x: `[B, D, H, W, C]`.
        kernel: `[K_D, K_H, K_W, C, C']`.
        strides: three strides; others than 1 are left to XLA.
        padding: padding of the three axes.
        options: options of XLA's function; dilations other than 1 are left to it.

    Returns:
        `[B, D, H, W, C']`.
    """
    dilated = [*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ())]
    if {*strides, *dilated, options.get("feature_group_count", 1)} != {1}:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    (front, back), *sides = padding
    x = jnp.pad(x, ((0, 0), (front, back), (0, 0), (0, 0), (0, 0)))
    depth = x.shape[1] - kernel.shape[0] + 1
    precision = options.get("precision")

    def planes(i: int) -> Array:
        flat = x[:, i : i + depth].reshape(-1, *x.shape[2:])
        return jax.lax.conv_general_dilated(
            flat, kernel[i], (1, 1), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
        )

    total = sum(planes(i) for i in range(kernel.shape[0]))
    return jnp.reshape(total, (x.shape[0], depth, *jnp.shape(total)[1:]))
