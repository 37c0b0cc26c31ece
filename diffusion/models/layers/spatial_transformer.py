"""Transformer layers inside a convolutional network, where the pixels of Stable Diffusion attend to the prompt."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import layout
from diffusion.models.layers.convolutions import GroupNorm, conv
from diffusion.models.layers.cross_attention import CrossAttention, xavier
from diffusion.models.layers.scan import scanned


class GatedMlp(nn.Module):
    """out(a gelu(b)), [a, b] = hidden(x), four times as wide inside: [B, N, D] -> [B, N, D].

    Reference: Shazeer, "GLU Variants Improve Transformer", 2020, GEGLU.
    """

    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        h = nn.DenseGeneral((2, 4 * width), dtype=self.dtype, kernel_init=xavier, name="hidden")(x)
        a, b = jnp.moveaxis(layout.split(h, "batch", "tokens", None, "hidden"), -2, 0)
        return nn.Dense(width, dtype=self.dtype, kernel_init=xavier, name="out")(a * nn.gelu(b, approximate=False))


class TransformerBlock(nn.Module):
    """x <- x + f(norm(x)), with f = attention to itself, attention to the text, and the MLP, one after the other."""

    heads: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self, x: jax.Array, text: jax.Array, bias: jax.Array | None, extra: tuple | None, identity: jax.Array | None
    ) -> tuple[jax.Array, None]:
        """Args:
            x: tokens [B, N, D].
            text: tokens of the text [B, M, E].
            bias: bias of the scores of the text's tokens; None for none.
            extra: image prompts, see `CrossAttention`; None for none.
            identity: Bool [B], True for examples in which a token attends only to itself; None for none.

        Returns:
            (x, None), as a scan expects.
        """
        # The variance of centred values: the difference of two means would lose digits.
        norm = lambda i: nn.LayerNorm(1e-5, self.dtype, use_fast_variance=False, name=f"norm_{i}")
        attend = lambda name: CrossAttention(
            self.heads, x.shape[-1] // self.heads, attention=self.attention, dtype=self.dtype, name=name
        )
        x = x + attend("self_attention")(norm(1)(x), identity=identity)
        x = x + attend("cross_attention")(norm(2)(x), text, bias, extra)
        x = x + GatedMlp(self.dtype, name="mlp")(norm(3)(x))
        return layout.split(x, "batch", "tokens", None), None


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of an image, as a residual: [B, H, W, C] -> [B, H, W, C].

        x + out(blocks(in(norm(x)), text))

    Attributes:
        depth: number of blocks; they are scanned, their parameters stacked along a first axis.
        heads: number of attention heads, a divisor of C.
        groups: number of groups of the norm.
        linear: whether `in` and `out` are dense layers (SD 2, XL); otherwise they are convolutions of one pixel (SD 1),
            which compute the same function with kernels of other shapes.
        attention: implementation, see `diffusion.models.layers.attention`.
        remat: parts to compute again in the backward pass, see `DiT`.
        dtype: compute type.

    Reference: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, section 3.3 and
    appendix E.2.1.
    """

    depth: int
    heads: int
    groups: int = 32
    linear: bool = False
    attention: str = "auto"
    remat: str = "none"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        text: jax.Array,
        bias: jax.Array | None = None,
        extra: tuple | None = None,
        identity: jax.Array | None = None,
    ) -> jax.Array:
        """Args:
        x: [B, H, W, C].
        text: [B, M, E].
        bias: bias of the scores of the text's keys, see `diffusion.models.layers.attention.mask_bias`.
        extra: image prompts, their keys, values and weights stacked over the blocks, see `extra_attention`.
        identity: Bool [depth, B], True for blocks in which a pixel of the example attends only to itself.
        """
        channels = x.shape[-1]

        def projected(h: jax.Array, name: str, zero: bool = False) -> jax.Array:
            if not self.linear:
                return conv(channels, 1, zero=zero, dtype=self.dtype, name=name)(h)
            start = nn.initializers.zeros_init() if zero else xavier
            return nn.Dense(channels, dtype=self.dtype, kernel_init=start, name=name)(h)

        h = projected(GroupNorm(self.groups, 1e-6, name="norm")(x), "in")
        axes = (nn.broadcast, nn.broadcast, 0, 0)
        blocks = scanned(TransformerBlock, self.depth, self.remat, self.is_initializing(), axes)
        tokens = layout.split(h.reshape(h.shape[0], -1, channels), "batch", "tokens", None)
        tokens, _ = blocks(self.heads, self.attention, self.dtype, name="blocks")(tokens, text, bias, extra, identity)
        h = layout.split(tokens, "batch", None, None).reshape(x.shape)
        return x + projected(h, "out", zero=True)
