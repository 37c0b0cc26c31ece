"""PixArt's ControlNet: copies of the transformer's first layers, which read the latents of a picture.

    x_t -- embedding -- layer 0 -- + ------- layer 1 -- + ------- layer 2 -- ...            the base, frozen
                          |        |                    |
                          |     residual_0           residual_1                             dense, zero at the start
                          v        |                    |
    latents -- embedding, dense -- + -- copy of layer 0 -- copy of layer 1 -- ...
    of the picture        (zero at the start)

Embedding, prompt and time are the base's: the file of a ControlNet holds only the copies and the dense layers.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.attachment import ControlNetBeside, check_heads, check_layers, same_size_in_range
from diffusion.models.layers.block_reuse import Blocks
from diffusion.models.layers.blocks import zeros
from diffusion.models.layers.network_bases import Backbone
from diffusion.models.layers.pixart_block import PixArtBlock
from diffusion.models.layers.scan import scanned
from diffusion.published.pixart.network import PixArt


class PixArtControlNet(ControlNetBeside, Backbone):
    """The additions to a PixArt's tokens that make its samples follow a picture.

        h_0 = tokens + before(seen),    h_k+1 = layer_k(h_k),    residual_k = dense_k(h_k+1)

    Attributes:
        depth: number of layers; the base has more.
        width: number of features of a token, the base's.
        heads: attention heads, the base's.

    Reference: Chen et al., "PIXART-delta: Fast and Controllable Image Generation with Latent Consistency Models", 2024,
    section 4, ControlNet-Transformer.
    """

    depth: int = 13
    width: int = 1152
    heads: int = 16
    base_class = PixArt
    added_names = "before/|residual_"
    stacks = ("blocks/",)
    reads_base = True
    positive = ("depth", "width", "heads")

    @nn.compact
    def __call__(
        self, tokens: jax.Array, seen: jax.Array, c: jax.Array, text: jax.Array, bias: jax.Array | None
    ) -> tuple[jax.Array, ...]:
        """Args:
            tokens: [B, N, width] of x_t after the base's first layer.
            seen: [B, N, width], the embedded latents of the picture.
            c: [B, 6, width], the base's vectors of the time.
            text: [B, M, width], the prompt as the base's layers read it.
            bias: bias that the layers add to the scores of its tokens, or None.

        Returns:
            `depth` arrays [B, N, width], float32: the base's entry "residuals".
        """
        dense = lambda name, dtype: nn.Dense(self.width, dtype=dtype, kernel_init=zeros, bias_init=zeros, name=name)
        h = tokens + dense("before", self.dtype)(seen)
        every = tuple(range(1, self.depth + 1))
        axes = (nn.broadcast, nn.broadcast, nn.broadcast, 0)
        stack = scanned(PixArtBlock, self.depth, self.remat, self.is_initializing(), axes, kept=every)
        _, states = stack(self.heads, 4.0, self.attention, self.dtype, name="blocks")(h, c, text, bias, {})
        return tuple(dense(f"residual_{k}", jnp.float32)(h.astype(jnp.float32)) for k, h in enumerate(states))

    @classmethod
    def beside(cls, base: PixArt, depth: int = 0) -> "PixArtControlNet":
        """A ControlNet for a base.

        Args:
            base: the transformer.
            depth: number of layers; 0 for the published 13, or all but the last of a base with fewer.

        Raises:
            ValueError: for a base without a layer after the ControlNet's.
        """
        module = cls(depth or max(min(13, base.depth - 1), 1), base.width, base.heads, remat=base.remat)
        module.check(base)
        return module

    def check(self, base: PixArt) -> None:
        """Refuses a base that this ControlNet does not fit; a ValueError says why."""
        check_layers(self.depth, base.depth - 1, "the layers of its base but the last")
        if base.mlp_ratio != 4:
            raise ValueError(
                f"a ControlNet of this class has layers with mlp_ratio = 4, but the base has {base.mlp_ratio}"
            )

    def residuals(
        self, params: Any, denoiser: PixArt, x: jax.Array, clock: jax.Array, condition: dict, seen: jax.Array, base: Any
    ) -> tuple[jax.Array, ...]:
        """The base's entry "residuals"."""

        def entered(blocks: Blocks) -> tuple[jax.Array, Any]:
            (segment,) = blocks.segments
            return blocks.start, (blocks.run(blocks.start, 0, 1), *segment.arguments[:3])

        through = functools.partial(denoiser.apply, {"params": base})
        _, (tokens, *shared) = through(x, clock, condition, through=entered)
        _, embedded = through(seen, clock, condition, through=lambda blocks: (blocks.start, blocks.start))
        outputs: Any = self.apply({"params": params}, tokens, embedded, *shared)
        return denoiser.spread(outputs)

    def fitted(self, denoiser: PixArt) -> tuple[Any, dict[str, Any]]:
        """See `ControlNetBeside`."""
        self.check(denoiser)
        check_heads(self.heads, denoiser.heads)
        module = self.clone(dtype=denoiser.dtype, attention=denoiser.attention)
        return module, {"read": same_size_in_range, "latents": True}


CONTROL_NETS = {"PixArt": PixArtControlNet}  # by the class of the transformer
