"""SD 3's ControlNet: copies of MM-DiT's first layers, which read x_t and the latents of a picture.

    hint -- patches, dense -- + -- the first layers, as MM-DiT's; the picture's tokens after each
            (zero at the start)     |    one dense layer each, all zero at the start
    x_t --- patches, dense, --------+    v
            + positions                 residuals -- the entry "residuals" of MM-DiT's condition

Pictures and features are channels last.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import patchify
from diffusion.models.attachment import (
    ControlNetBeside,
    check_heads,
    check_layers,
    same_size_in_range,
    same_size_to_inpaint,
)
from diffusion.models.layers.blocks import xavier, zeros
from diffusion.models.layers.constants import constant
from diffusion.models.layers.joint_blocks import Conditioning, JointBlock, PictureBlock
from diffusion.models.layers.scan import scanned
from diffusion.published.stable_diffusion_3.network import MMDiT


class MMDiTControlNet(ControlNetBeside, nn.Module):
    """Computes additions to an MM-DiT's picture tokens that make the samples follow a picture.

        residuals = control_net.apply(variables, x, t, condition, hint)
        output = mmdit.apply(mmdit_variables, x, t, {**condition, "residuals": residuals})

    All parameters except those of the hint and of the residuals have the names of the MM-DiT's parameters, with which
    training begins.

    Attributes:
        base: the transformer, whose fields are read; it is not called, and has no parameters here.
        depth: number of layers; the first `base.dual` have a second attention.
        hint_channels: number of channels of the hint: those of the latents, and one more for the mask if the ControlNet
            inpaints.
        text: whether the layers are MM-DiT's, which process picture and text; otherwise they process only the picture
            (SD3.5-large).
        embeds: whether the ControlNet embeds the patches and positions of x itself; otherwise it reads the base's
            tokens (SD3.5-large).
        pooled: whether the ControlNet receives the pooled text; otherwise it receives zeros, and latents of the hint
            without the autoencoder's shift.

    Reference: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023, section 3, for
    U-Nets; diffusers' code, SD3ControlNetModel.
    """

    base: MMDiT
    depth: int = 12
    hint_channels: int = 16
    text: bool = True
    embeds: bool = True
    pooled: bool = True
    base_class = MMDiT
    added_names = "hint_embedding/|residual_"
    stacks = ("dual_blocks/", "blocks/")
    reads_base = True

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Mapping[str, Any], hint: jax.Array
    ) -> tuple[jax.Array, ...]:
        """Args:
            x: the transformer's input, [B, H, W, channels]; without `embeds`, the transformer's tokens [B, N, width].
            t: the transformer's clock, [B] or [].
            condition: "text" [B, M, text_width] and "pooled" [B, pooled_width]; each is needed only if it is read.
            hint: the latents of the picture, [B, H, W, hint_channels].

        Returns:
            `depth` arrays [B, N, width]: the entry "residuals" of the transformer's condition.

        Raises:
            ValueError: if the hint's shape does not fit.
        """
        base = self.base
        if hint.shape[-1] != self.hint_channels or (self.embeds and hint.shape[:3] != x.shape[:3]):
            raise ValueError(
                f"the hint must be [B, H, W, {self.hint_channels}] for x of shape {x.shape}; got {hint.shape}"
            )
        dense = lambda name, start=xavier: nn.Dense(base.width, dtype=base.dtype, kernel_init=start, name=name)
        tokens = x
        if self.embeds:
            table = constant(self, "positions_table", base.initial_positions)
            tokens = base.positioned(dense("patch_embedding")(patchify(x, base.patch)), table, *x.shape[1:3])
        tokens = tokens + dense("hint_embedding", zeros)(patchify(hint, base.patch))
        pooled = condition["pooled"] if self.pooled else jnp.zeros((len(x), base.pooled_width))
        c = Conditioning(base.width, base.dtype, name="conditioning")(t, pooled)

        states: list[jax.Array] = []
        stack = functools.partial(scanned, remat=base.remat, initializing=self.is_initializing())
        if self.text:
            streams = tokens, dense("text_embedding")(condition["text"])
            dual = min(base.dual, self.depth)
            for name, length, second in (("dual_blocks", dual, True), ("blocks", self.depth - dual, False)):
                if length:
                    every = range(1, length + 1)
                    blocks = stack(JointBlock, length, kept=every, pick=lambda streams: streams[0])
                    joint_layers = blocks(
                        base.heads, base.qk_norm, second, False, base.attention, base.dtype, name=name
                    )
                    streams, after = joint_layers(streams, c, None, {})
                    states += after
        else:
            blocks = stack(PictureBlock, self.depth, in_axes=nn.broadcast, kept=range(1, self.depth + 1))
            _, states = blocks(base.heads, base.attention, base.dtype, name="blocks")(tokens, c)
        return tuple(dense(f"residual_{k}", zeros)(h) for k, h in enumerate(states))

    @classmethod
    def beside(cls, base: MMDiT, depth: int = 0) -> "MMDiTControlNet":
        """A ControlNet for a base.

        Args:
            base: the transformer.
            depth: number of layers; 0 for diffusers' default, 12, or all layers but the last of a base with fewer.

        Raises:
            ValueError: if the base has fewer layers before its last.
        """
        depth = depth or max(min(12, base.depth - 1), 1)
        check_layers(depth, base.depth - 1, "the layers of its base but the last")
        shortened = base.clone(depth=depth + 1, dual=min(base.dual, depth))
        return cls(shortened, depth, base.channels)

    def residuals(
        self, params: Any, denoiser: MMDiT, x: jax.Array, clock: jax.Array, condition: dict, seen: jax.Array, base: Any
    ) -> tuple[jax.Array, ...]:
        """The base's entry "residuals"; a ControlNet without an embedding of x reads the base's tokens."""
        if not self.embeds:
            picture_tokens = lambda blocks: (blocks.start[0], blocks.start[0])
            entered: Any = denoiser.apply({"params": base}, x, clock, condition, through=picture_tokens)
            x = entered[1]
        outputs: Any = self.apply({"params": params}, x, clock, condition, seen)
        return denoiser.spread(outputs)

    def fitted(self, denoiser: MMDiT) -> tuple[Any, dict[str, Any]]:
        """See `ControlNetBeside`; refuses a ControlNet that reads more than a picture and a mask."""
        more = self.hint_channels - denoiser.channels
        if more not in (0, 1):
            raise ValueError(
                f"this ControlNet reads {self.hint_channels} channels, but the latents of a picture have "
                f"{denoiser.channels} in this base, or {denoiser.channels + 1} with a mask; it was made for another "
                "base"
            )
        check_layers(self.depth, denoiser.depth, "the layers of its base")
        check_heads(self.base.heads, denoiser.heads)
        # A ControlNet that inpaints receives zeros for the pooled text, and shifted latents, whatever its config says.
        pooled = self.pooled and not more
        module = self.clone(base=self.base.clone(dtype=denoiser.dtype, attention=denoiser.attention), pooled=pooled)
        return module, {
            "read": same_size_to_inpaint if more else same_size_in_range,
            "latents": True,
            "shifted": bool(self.pooled or more),
            "inpaints": bool(more),
        }


CONTROL_NETS = {"MMDiT": MMDiTControlNet}  # by the class of the transformer
