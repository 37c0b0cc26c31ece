"""Flux's ControlNet: copies of the first layers of both kinds, which read a picture beside x_t.

    hint -- patches, dense -- + -- joint layers -- single layers; the picture's tokens after each
            (zero at the start)|    one dense layer each, all zero at the start
    x_t --- patches, dense ----+    v
                               residuals -- the entry "residuals" of Flux's condition: for joint and for single layers

The hint is the latents of a picture (InstantX), or the picture itself, which convolutions read (XLabs). A union
ControlNet knows several kinds of control: the embedding of a kind is one more token of the text.

Pictures and features are channels last.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import patchify
from diffusion.models.attachment import ControlNetBeside, check_heads, check_layers, same_size_in_range
from diffusion.models.layers.blocks import xavier, zeros
from diffusion.models.layers.convolutions import conv
from diffusion.models.layers.joint_blocks import Conditioning, JointBlock, SingleBlock
from diffusion.models.layers.rotary import axis_angles
from diffusion.models.layers.scan import scanned
from diffusion.published.flux.network import PATCH, Flux

HINT_WIDTH = 16  # channels of the convolutions that read a picture
FACTOR = 8  # factor by which they divide its sides


class FluxControlNet(ControlNetBeside, nn.Module):
    """The additions to a Flux's picture tokens that make its samples follow a picture.

        residuals = control_net.apply(variables, x, t, condition, hint)
        output = flux.apply(flux_variables, x, t, {**condition, "residuals": flux.spread(residuals)})

    All parameters except the hint's, the kinds' and the residuals' have the names of Flux's, from which training
    begins.

    Attributes:
        base: the fields of the transformer; it is not called, and has no parameters here.
        depth: number of joint layers.
        singles: number of single layers, or 0.
        modes: number of kinds of control that a union ControlNet knows, or 0.
        pixels: number of channels into which convolutions turn a picture in [-1, 1]; 0 for a ControlNet that reads
            latents.

    Reference: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023, section 3, for
    U-Nets; the code of diffusers' FluxControlNetModel.
    """

    base: Flux
    depth: int = 4
    singles: int = 10
    modes: int = 0
    pixels: int = 0
    base_class = Flux
    added_names = "hint_|residual_|single_residual_|mode_embedding"
    stacks = ("blocks/", "single_blocks/")

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Mapping[str, Any], hint: jax.Array, mode: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """Args:
            x: [B, H, W, channels], as the transformer's.
            t: times in [0, 1], [B] or [].
            condition: "text" [B, M, text_width] and "pooled" [B, pooled_width]; "strength" [B] where it is received.
            hint: [B, H, W, channels] latents; with `pixels` [B, 8 H, 8 W, 3] in [-1, 1].
            mode: int [B], the kind of control; with `modes`.

        Returns:
            `depth` and `singles` arrays [B, N, width].

        Raises:
            ValueError: for a hint that does not fit.
        """
        base = self.base
        batch, height, width, channels = x.shape
        expected = (batch, FACTOR * height, FACTOR * width, 3) if self.pixels else (batch, height, width, channels)
        if hint.shape != expected:
            raise ValueError(f"the hint must be {expected} for x of shape {x.shape}; got {hint.shape}")
        dense = lambda name, start=xavier: nn.Dense(base.width, dtype=base.dtype, kernel_init=start, name=name)
        read = self._seen(hint) if self.pixels else hint
        start = xavier if self.pixels else zeros  # with pixels the last convolution starts at zero
        image = dense("patch_embedding")(patchify(x, PATCH)) + dense("hint_embedding", start)(patchify(read, PATCH))
        text = dense("text_embedding")(condition["text"])
        if self.modes:
            kinds = nn.Embed(self.modes, base.width, dtype=base.dtype, name="mode_embedding")
            text = jnp.concatenate([kinds(mode)[:, None], text], axis=1)
        strength = 1000 * condition["strength"] if base.strength else None
        c = Conditioning(base.width, base.dtype, name="conditioning")(
            1000 * jnp.asarray(t), condition["pooled"], strength
        )
        words = text.shape[1]
        angles = jnp.asarray(axis_angles(base.token_positions(words, height, width), base.axes))

        stack = functools.partial(scanned, remat=base.remat, initializing=self.is_initializing())
        blocks = stack(JointBlock, self.depth, kept=range(1, self.depth + 1), pick=lambda streams: streams[0])
        blocks = blocks(base.heads, True, False, False, base.attention, base.dtype, name="blocks")
        (image, text), joint = blocks((image, text), c, angles, {})
        single: list[jax.Array] = []
        if self.singles:
            picture_tokens = lambda tokens: tokens[:, words:]
            blocks = stack(SingleBlock, self.singles, kept=range(1, self.singles + 1), pick=picture_tokens)
            blocks = blocks(base.heads, base.attention, base.dtype, name="single_blocks")
            _, single = blocks(jnp.concatenate([text, image], axis=1), c, angles, {})
        return (
            tuple(dense(f"residual_{k}", zeros)(h) for k, h in enumerate(joint)),
            tuple(dense(f"single_residual_{k}", zeros)(h) for k, h in enumerate(single)),
        )

    def _seen(self, hint: jax.Array) -> jax.Array:
        """[B, 8 H, 8 W, 3] -> [B, H, W, pixels]."""
        dtype = self.base.dtype
        h = nn.silu(conv(HINT_WIDTH, dtype=dtype, name="hint_in")(hint))
        for i in range(FACTOR.bit_length() - 1):
            h = nn.silu(conv(HINT_WIDTH, dtype=dtype, name=f"hint_{i}_same")(h))
            h = nn.silu(conv(HINT_WIDTH, stride=2, dtype=dtype, name=f"hint_{i}_half")(h))
        return conv(self.pixels, zero=True, dtype=dtype, name="hint_out")(h)

    @classmethod
    def beside(cls, base: Flux, depth: int = 0) -> "FluxControlNet":
        """A ControlNet for a base, which reads latents.

        Args:
            base: the transformer.
            depth: number of joint layers, with as large a share of the single ones; 0 for diffusers' 4 and 10, or all
                of a base with fewer.

        Raises:
            ValueError: for a base with fewer layers, and for Chroma, whose vectors an approximator makes.
        """
        if base.approximator:
            raise ValueError(
                "a FluxControlNet copies layers that make their own vectors, but in this base they come from an "
                f"approximator = {base.approximator} (Chroma). Valid: a FLUX.1"
            )
        singles = round(depth * base.singles / base.depth) if depth else min(10, base.singles)
        depth = depth or min(4, base.depth)
        check_layers(depth, base.depth, "the joint layers of its base")
        return cls(base.clone(depth=depth, singles=max(singles, 1)), depth, singles)

    def example(self) -> tuple[Any, ...]:
        """Arguments of a small call."""
        one = lambda *shape: jnp.zeros((1, *shape))
        fields = self.base
        condition = {"text": one(1, fields.text_width), "pooled": one(fields.pooled_width)}
        condition |= {"strength": one()} if fields.strength else {}
        x = one(PATCH, PATCH, fields.channels)
        hint = one(FACTOR * PATCH, FACTOR * PATCH, 3) if self.pixels else x
        return x, one(), condition, hint, *[jnp.zeros(1, jnp.int32)] * (self.modes > 0)

    def residuals(
        self, params: Any, denoiser: Flux, x: jax.Array, clock: jax.Array, condition: dict, seen: Any
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """The base's entry "residuals"; of pixels, joint layer i has residual i mod K, as diffusers does for XLabs."""
        received = {name: entry for name, entry in condition.items() if name != "strength" or self.base.strength}
        hint = seen if isinstance(seen, tuple) else (seen,)
        outputs: Any = self.apply({"params": params}, x, clock, received, *hint)
        joint, single = denoiser.spread(outputs)
        if self.pixels:
            joint = tuple(outputs[0][i % self.depth] for i in range(denoiser.depth))
        return joint, single

    def fitted(self, denoiser: Flux) -> tuple[Any, dict[str, Any]]:
        """See `ControlNetBeside`."""
        check_layers(self.depth, denoiser.depth, "the joint layers of its base")
        check_layers(max(self.singles, 1), denoiser.singles, "the single layers of its base")
        check_heads(self.base.heads, denoiser.heads)
        module = self.clone(base=self.base.clone(dtype=denoiser.dtype, attention=denoiser.attention))
        return module, {"read": same_size_in_range, "latents": not self.pixels, "modes": self.modes}


CONTROL_NETS = {"Flux": FluxControlNet}  # by the class of the transformer
