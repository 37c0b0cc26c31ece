"""EDM2's layers, which keep the magnitude (the root mean square) of their input.

For independent inputs of magnitude 1 each output has magnitude 1, so that no layer needs a norm with learned scales.
Equation numbers refer to Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models".
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.promotion import promoted
from diffusion.models.layers.constants import constant

SMALLEST = 1e-4  # added to magnitudes before they divide
FORCED = "kernel"  # name of the parameters whose magnitude is forced


def unit(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """x over its magnitude along these axes: x / (rms(x) + 1e-4); over channels, "pixel norm" (eq. 30)."""
    wide = jnp.asarray(x).astype(promoted(x.dtype))  # also of a kernel in 8 bits
    square = jnp.square(wide).mean(axes, keepdims=True)
    # The square root has no derivative at 0, and activations may be 0.
    magnitude = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return (wide / (magnitude + SMALLEST)).astype(x.dtype)


def mp_silu(x: jax.Array) -> jax.Array:
    """silu(x) / 0.596 (eq. 81)."""
    return nn.silu(x) / 0.596


def mp_sum(a: jax.Array, b: jax.Array, t: float = 0.5) -> jax.Array:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2) (eq. 88)."""
    return ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a: jax.Array, b: jax.Array, t: float = 0.5) -> jax.Array:
    """[(1 - t) a / sqrt(N_a), t b / sqrt(N_b)] sqrt((N_a + N_b) / ((1 - t)^2 + t^2)), of N channels each (eq. 103)."""
    n_a = a.shape[-1]
    n_b = b.shape[-1]
    scale = math.sqrt((n_a + n_b) / ((1 - t) ** 2 + t**2))
    return jnp.concatenate([scale * (1 - t) / math.sqrt(n_a) * a, scale * t / math.sqrt(n_b) * b], axis=-1)


class MPFourier(nn.Module):
    """sqrt(2) cos(f t + phi), f ~ N(0, (2 pi)^2), phi ~ U(0, 2 pi), drawn once and kept: [B] -> [B, features] (eq. 75).

    Attributes:
        features: number of features of the output.
    """

    features: int

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        frequencies = constant(self, "frequencies", nn.initializers.normal(2 * jnp.pi), (self.features,))
        phases = constant(self, "phases", nn.initializers.uniform(2 * jnp.pi), (self.features,))
        return math.sqrt(2) * jnp.cos(t[:, None] * frequencies + phases)


class MPConv(nn.Module):
    """A convolution or a dense layer whose weights have magnitude 1 for each output, over sqrt(fan-in) (eq. 47).

        out = gain * conv(x, unit(w)) / sqrt(fan-in)

    Attributes:
        features: number of channels of the output.
        side: side of the kernel, odd; 0 for a dense layer over the last axis.
        dtype: compute type; the weights are normalised in float32.
    """

    features: int
    side: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, gain: jax.Array | float = 1.0) -> jax.Array:
        shape = (self.side,) * 2 * (self.side > 0) + (x.shape[-1], self.features)
        kernel = self.param(FORCED, nn.initializers.normal(1.0), shape)
        kernel = (unit(kernel, _fan_in(kernel)) * (gain / math.sqrt(math.prod(shape[:-1])))).astype(self.dtype)
        x = x.astype(self.dtype)
        if not self.side:
            return x @ kernel
        border = [(self.side // 2, self.side // 2)] * 2
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), border, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def forced(params: Any) -> Any:
    """The parameters with all weights at magnitude 1 for each output: forced weight normalisation (eq. 66).

    The network divides by the magnitude itself, so that this changes its output by no more than 1e-4 of it. It keeps
    the weights from growing, relative to which updates would shrink. Apply it to the parameters after each update:

        updates, state = optimizer.update(gradients, state, params)
        params = magnitude.forced(optax.apply_updates(params, updates))

    or use the optimizer `magnitude.forcing(optimizer)`.

    Args:
        params: pytree of a network of these layers, as dicts; leaves named "kernel" are its weights, all others
            (gains, frequencies) stay.

    Returns:
        The same pytree.
    """
    name = lambda path: getattr(path[-1], "key", None)
    change = lambda path, leaf: unit(leaf, _fan_in(leaf)) if name(path) == FORCED else leaf
    return jax.tree_util.tree_map_with_path(change, params)


def forcing(optimizer: Any) -> Any:
    """The optimizer, with updates that lead to weights of magnitude 1, see `forced`.

    Args:
        optimizer: a pair (init, update) as in optax, such as one of `training.optimizers`; a named tuple keeps its
            other fields.

    Returns:
        One of the same type, whose `update` needs the parameters.
    """

    def update(gradients, state, params, **extra):
        updates, state = optimizer.update(gradients, state, params, **extra)
        aims = forced(jax.tree.map(jnp.add, params, updates))
        return jax.tree.map(jnp.subtract, aims, params), state

    return optimizer._replace(update=update)


def _fan_in(kernel: jax.Array) -> tuple[int, ...]:
    return tuple(range(kernel.ndim - 1))
