"""A network that computes the shifts, scales and gates of all layers from the time (Chroma)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers.blocks import xavier
from diffusion.models.layers.embeddings import sinusoid
from diffusion.models.layers.joint_blocks import VectorEmbedding


def numbered(count: int, size: int) -> np.ndarray:
    """Sinusoidal features of 1000 times the number of a vector, cosines first, float32 [count, size].

        out[k] = [cos(1000 k w), sin(1000 k w)],   w_i = 10000^(-i / (size / 2))

    The angles are rounded to float32, as in training. They are as large as 344,000, where the rounding error is 0.02.

    Args:
        count: number of vectors.
        size: number of features of a vector, even.
    """
    exponents = np.float32(-math.log(10_000.0)) * np.arange(size // 2, dtype=np.float32) / np.float32(size // 2)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = (1000 * np.arange(count)).astype(np.float32)[:, None] * frequencies
    angles = angles.astype(np.float64)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


class Approximator(nn.Module):
    """The vectors of all layers from the time: [B] -> [B, count, width].

        x_k = dense([sinusoid(t), sinusoid(0), numbered(k)]);   x <- x + mlp(scale * x / rms(x))   x depth;   dense(x)

    Attributes:
        count: number of vectors.
        width: width of a vector.
        features: number of features of the input: a quarter for the time, a quarter for a strength that is 0, and half
            for the number.
        hidden: number of features of the residual layers.
        depth: number of residual layers.
        dtype: compute type, "float32" or "bfloat16".

    Reference: the model card of Chroma (Lodestone Rock, 2025), and diffusers' module of it.
    """

    count: int
    width: int
    features: int
    hidden: int
    depth: int
    dtype: str

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        quarter = self.features // 4
        times = jnp.concatenate([sinusoid(t, quarter), sinusoid(jnp.zeros_like(t), quarter)], axis=-1)
        shape = (t.shape[0], self.count, self.features // 2)
        numbers = jnp.broadcast_to(numbered(self.count, self.features // 2), shape)
        x = jnp.concatenate([jnp.broadcast_to(times[:, None], shape), numbers], axis=-1)
        x = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=xavier, name="enter")(x)
        for i in range(self.depth):
            norm = nn.RMSNorm(epsilon=float(np.finfo(np.float32).eps), dtype=self.dtype, name=f"norm_{i}")
            x = x + VectorEmbedding(self.hidden, self.dtype, name=f"layer_{i}")(norm(x))
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="leave")(x)
