"""Self-attention of the pixels of an image, between the residual blocks of U-Nets."""

import flax.linen as nn
import jax

from diffusion.models.layers import layout
from diffusion.models.layers.attention import attention
from diffusion.models.layers.convolutions import GroupNorm


class ImageAttention(nn.Module):
    """gain (x + out(attention(qkv(norm(x))))), over all pixels of an image: [B, H, W, C] -> [B, H, W, C].

    Pixels may lie along any number of axes.

    Attributes:
        heads: number of heads, a divisor of C.
        groups: number of groups of the norm; 0 for no norm.
        epsilon: epsilon of the norm, > 0.
        least: least number of channels in a group of the norm, see `GroupNorm`.
        gain: factor of the sum; sqrt(1/2) keeps its variance (Song et al., 2021).
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.

    Reference: Ho et al., "Denoising Diffusion Probabilistic Models", 2020, appendix B; with several heads, Nichol &
    Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021.
    """

    heads: int = 1
    groups: int = 32
    epsilon: float = 1e-6
    least: int = 1
    gain: float = 1.0
    attention: str = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        h = GroupNorm(self.groups, self.epsilon, self.least, name="norm")(x) if self.groups else x
        h = h.reshape(x.shape[0], -1, channels)
        heads = (3, self.heads, channels // self.heads)
        qkv = nn.DenseGeneral(heads, dtype=self.dtype, name="qkv")(h)
        qkv = layout.split(qkv, "batch", None, None, "heads", None)
        h = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], self.attention)
        h = layout.split(h, "batch", None, "heads", None)
        zeros = nn.initializers.zeros_init()
        h = nn.DenseGeneral(channels, axis=(-2, -1), dtype=self.dtype, kernel_init=zeros, name="out")(h)
        h = x + h.reshape(x.shape)
        return layout.split(h if self.gain == 1 else self.gain * h, "batch", *(None,) * (x.ndim - 1))
