"""A convolution of videos that are padded in time with copies of the first frame and, if wanted, of the last.

Under the collection `causal_layers.STREAM` a video comes chunk by chunk: a causal convolution keeps the frames before a
chunk, and one that also sees later frames returns the frames before them (`Place`).
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.autoencoders.causal_layers import with_past


class Place(NamedTuple):
    """The place of a chunk in its video; frames before the first and after the last have any values.

    Attributes:
        start: number of its first frame, [] or an integer; negative before the video.
        frames: number of frames of the video.
    """

    start: Any
    frames: int

    def earlier(self, frames: int) -> "Place":
        """The chunk of the same length that begins `frames` frames earlier."""
        return Place(self.start - frames, self.frames)


def delayed(module: nn.Module, x: jax.Array, frames: int) -> jax.Array:
    """The chunk that begins `frames` frames before x; the module keeps the last ones for its next call."""
    return with_past(module, x, frames)[0][:, : x.shape[1]]


class EdgeConv(nn.Module):
    """A convolution over time, rows and columns, [B, F, H, W, C] -> [B, F', H', W', D].

        out[f] = sum_k K_k * x[s f - (T - 1) + k],   k < T,   causal;
        out[f] = sum_k K_k * x[s f - (T - 1) / 2 + k]         not causal;   x[j] = x[0], j < 0;   x[F + j] = x[F - 1]

    Rows and columns are padded by half the kernel, with zeros, the pixels at the edge, or those before the edge.

    Attributes:
        features: number D of output channels.
        size: frames T, rows and columns of the kernel, odd.
        stride: s, of frames, rows and columns.
        causal: whether a frame depends only on itself and earlier ones.
        repeats: whether pixels at the edge are repeated; otherwise a frame is padded with zeros.
        reflects: whether the pixels before the edge are mirrored at it, in place of zeros.
        dtype: compute type.
    """

    features: int
    size: tuple[int, int, int] = (3, 3, 3)
    stride: tuple[int, int, int] = (1, 1, 1)
    causal: bool = True
    repeats: bool = False
    reflects: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, place: Place | None = None) -> jax.Array:
        """Args:
            x: [B, F, H, W, C], a video or a chunk of one.
            place: position of the chunk, for a convolution that is not causal; None: x is the video.

        Returns:
            [B, F', H', W', D]; with `place` the chunk that begins (T - 1) / 2 frames earlier.
        """
        shape = (*self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,)).astype(self.dtype)
        frames, *sides = self.size
        around = [(side // 2, side // 2) for side in sides]
        if frames > 1 and self.causal:
            x, begins = with_past(self, x, frames - 1, repeats=True)
            x = x if begins else x[:, self.stride[0] - 1 :]
        elif frames > 1 and place is not None:
            x = _within(with_past(self, x, frames - 1)[0], place.earlier(frames - 1))
        elif frames > 1:
            x = jnp.pad(x, [(0, 0), (frames // 2, frames // 2), *[(0, 0)] * 3], "edge")
        if self.repeats or self.reflects:
            x = jnp.pad(x, [(0, 0), (0, 0), *around, (0, 0)], "edge" if self.repeats else "reflect")
            around = [(0, 0)] * 2
        padding = [(0, 0), *around]
        form = ("NDHWC", "DHWIO", "NDHWC")
        return (
            jax.lax.conv_general_dilated(x.astype(self.dtype), kernel, self.stride, padding, dimension_numbers=form)
            + bias
        )


def _within(x: jax.Array, place: Place) -> jax.Array:
    """A chunk whose frames outside the video are the video's first or last one, where the chunk has that."""
    indices = jnp.arange(x.shape[1])
    last = place.frames - 1 - place.start
    return jnp.take(x, jnp.clip(jnp.clip(indices, -place.start, last), 0, x.shape[1] - 1), axis=1)
