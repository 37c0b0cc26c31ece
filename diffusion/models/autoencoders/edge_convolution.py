"""A convolution of videos whose first frame, and by choice whose last one, stands again outside."""

__all__ = ["EdgeConv"]

import flax.linen as nn
import jax
import jax.numpy as jnp


class EdgeConv(nn.Module):
    """A convolution over time, rows and columns, [B, F, H, W, C] -> [B, F', H', W', D].

        out[f] = sum_k K_k * x[s f - (T - 1) + k],   k < T,   causal;
        out[f] = sum_k K_k * x[s f - (T - 1) / 2 + k]         not causal;   x[j] = x[0], j < 0;   x[F + j] = x[F - 1]

    Rows and columns are padded by half the kernel, with zeros or with the pixels at the edge.

    Attributes:
        features: D.
        size: T, rows and columns of the kernel, odd.
        stride: s, of frames, rows and columns.
        causal: whether a frame sees itself and earlier ones alone.
        repeats: whether pixels at the edge are repeated; else zeros stand around a frame.
        dtype: compute type.
    """

    features: int
    size: tuple[int, int, int] = (3, 3, 3)
    stride: tuple[int, int, int] = (1, 1, 1)
    causal: bool = True
    repeats: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,)).astype(self.dtype)
        frames, *sides = self.size
        before = frames - 1 if self.causal else frames // 2
        around = [(side // 2, side // 2) for side in sides]
        times = (before, frames - 1 - before)
        if self.repeats:
            x = jnp.pad(x, [(0, 0), times, *around, (0, 0)], "edge")
            padding = [(0, 0)] * 3
        else:
            x = jnp.pad(x, [(0, 0), times, *[(0, 0)] * 3], "edge") if frames > 1 else x
            padding = [(0, 0), *around]
        form = ("NDHWC", "DHWIO", "NDHWC")
        return (
            jax.lax.conv_general_dilated(x.astype(self.dtype), kernel, self.stride, padding, dimension_numbers=form)
            + bias
        )
