"""The generator of drifting models: a transformer that turns noise into a sample in one evaluation, without a time.

    class   codes of style   strength         x [B, H, W, C]
      |           |             |                   |
    embedding  their sum   sinusoid, MLP,     patches, dense, + learned positions
      |           |        RMSNorm, x 0.02          |
      +-----------+-------------+                   |
                  c                                 |
                  +-- dense, class_tokens copies, + learned vectors -> before them
                  |                                 |
                silu --------------> [ a layer of DiT: RMSNorm, RoPE, SwiGLU ] x depth
                  |                                 |
                  +--> shift, scale ------ norm, dense, unpatchify (only the picture's tokens)
                                                    |
                                              [B, H, W, C]

The codes of style are additional noise that affects the whole picture. Each code selects one of a few learned vectors.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.not_a_number import table_rows
from diffusion.models.layers import conditions, layout, network_checks
from diffusion.models.layers.blocks import Block, normalisation, xavier
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.embeddings import LabelEmbedding, TimestepEmbedding, sincos_positions
from diffusion.models.layers.network_bases import Backbone, Condition, Numbers
from diffusion.models.layers.patches import embedded_patches, picture_output
from diffusion.models.layers.stacks import Layered, single_stack

SIZES = {"B": (768, 12, 12), "L": (1024, 24, 16)}  # width, depth, heads: configs/gen/*_sota_*.yaml of the authors
STRENGTH_SHARE = 0.02  # factor of the embedded strength in the condition
MIXING = np.uint32(0x9E3779B1)  # Knuth's multiplier, an odd number near 2^32 / golden ratio


def styles_of(x: jax.Array, codes: int, styles: int) -> jax.Array:
    """Codes of style that are drawn by the bits of the noise.

    The last bits of Gaussian numbers are uniform and independent of the numbers' size, so that these codes are as good
    as separate draws, although they depend only on the noise of the sample.

    Args:
        x: noise `[B, ...]`, float32, of at least `codes` numbers for each example.
        codes: number of codes.
        styles: number of values of a code, a power of two.

    Returns:
        int32 `[B, codes]` in 0 .. styles - 1.
    """
    bits = jax.lax.bitcast_convert_type(x.reshape(len(x), -1)[:, :codes].astype(jnp.float32), jnp.uint32)
    return ((bits * MIXING) >> np.uint32(32 - int(styles).bit_length() + 1)).astype(jnp.int32)


class DriftingDiT(Layered, Backbone):
    """The generator: `apply(variables, noise, t, condition)` is a `Network` whose output is the sample, whatever t is.

    The output is to be read as a prediction of x_0 at t = 1 of `rectified_flow`, from which one step leads to the
    sample. Parameters and the output are float32, whatever the compute type is. Layers are scanned. All images have the
    same size.

    Attributes:
        shape: (H, W, C) of the images.
        patch: side of a patch in pixels; it divides H and W.
        width: number of features of a token, a multiple of 4 times `heads`.
        depth: number of blocks.
        heads: number of attention heads.
        num_classes: number of classes, whose null class is label `num_classes`.
        class_tokens: number of tokens of the condition that precede those of the picture, at least 1.
        codes: number of codes of style of a picture; 0 for a network without codes.
        styles: number of values of each code, a power of two.
        mlp_ratio: number of hidden features of the MLP, divided by `width`; SwiGLU has two thirds of them, rounded up
            to a multiple of 32.
        default_strength: scale of the guidance that the network imitates if the condition has no "strength"; 1 means no
            guidance.

    Reference: Deng et al., "Generative Modeling via Drifting", 2026, appendix A.2; the authors' code in JAX,
    models/generator.py.
    """

    shape: tuple[int, int, int]
    patch: int
    width: int
    depth: int
    heads: int
    num_classes: int
    class_tokens: int = 16
    codes: int = 32
    styles: int = 64
    mlp_ratio: float = 4.0
    default_strength: float = 1.0
    one_size = True  # a position is learned for each patch
    ranks = (3,)
    positive = ("patch", "width", "depth", "heads", "num_classes", "class_tokens", "mlp_ratio", "default_strength")

    def check_fields(self) -> None:
        network_checks.heads(self, 4)
        if self.codes < 0 or self.styles < 2 or self.styles & (self.styles - 1):
            raise ValueError(
                f"codes={self.codes}, styles={self.styles}: codes must be at least 0, and styles a power of two, "
                "at least 2"
            )
        network_checks.whole_patches(self)
        if self.codes > np.prod(self.shape):
            raise ValueError(
                f"codes={self.codes}: each code reads one number of the noise, which has only {np.prod(self.shape)}"
            )

    @property
    def hidden(self) -> int:
        """The number of hidden features of the MLP."""
        return -(-int(2 * int(self.mlp_ratio * self.width) / 3) // 32) * 32

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition = None, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noise [B, H, W, C].
            t: a clock [B] or [], which changes nothing.
            condition: class labels int [B] in 0 .. num_classes; or a dict of "label" and optionally "strength" [B], the
                scale of the guidance that the network imitates, and "style" int [B, codes] in 0 .. styles - 1 (any
                other code gives NaN), by default `styles_of` x.
            features: numbers of blocks, from 1, whose features the call also returns, see `network_bases.Backbone`.

        Returns:
            The samples [B, H, W, C].
        """
        entries = condition if isinstance(condition, Mapping) else {"label": condition}
        parts = conditions.entries(entries, (), ("label", "strength", "style"))
        self._check(x, t, parts)
        batch, height, width, _ = x.shape
        rows = height // self.patch
        columns = width // self.patch

        c = LabelEmbedding(self.num_classes, self.width, self.dtype, name="label_embedding")(parts["label"])
        if self.codes:
            init = nn.initializers.normal(0.02)
            table = self.param("style_embedding", init, (self.codes, self.styles, self.width), jnp.float32)
            style = styles_of(x, self.codes, self.styles) if parts["style"] is None else parts["style"]
            c = c + jax.vmap(table_rows, (0, 1), 1)(table, style).sum(axis=1).astype(c.dtype)
        strength = jnp.full(batch, self.default_strength) if parts["strength"] is None else parts["strength"]
        scale = TimestepEmbedding(self.width, self.dtype, name="strength_embedding")(strength)
        c = c + STRENGTH_SHARE * normalisation("scaled_rmsnorm", "strength_norm", self.dtype)(scale)

        tokens = embedded_patches(x, self.patch, self.width, self.dtype)
        sincos = lambda *_: jnp.asarray(sincos_positions(rows, columns, self.width))
        tokens = tokens + self.param("positions", sincos, (rows * columns, self.width)).astype(tokens.dtype)
        learned = self.param("class_positions", nn.initializers.normal(0.02), (self.class_tokens, self.width))
        prefix = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="class_embedding")(c)
        prefix = prefix[:, None] + learned.astype(tokens.dtype)
        tokens = layout.split(jnp.concatenate([prefix, tokens], axis=1), "batch", "tokens", None)

        # Rotary positions count along the sequence; a layer of DiT takes the pairs in two halves of a head.
        size = self.width // self.heads
        turns = np.outer(np.arange(tokens.shape[1]), 10_000.0 ** (-np.arange(size // 2) / (size // 2)))
        angles = jnp.asarray(turns.reshape(-1, 2, size // 4), jnp.float32)
        picture = lambda tokens: tokens[:, self.class_tokens :]

        def output(tokens: jax.Array) -> jax.Array:
            norm = normalisation("scaled_rmsnorm", "final_norm", self.dtype)
            return picture_output(tokens, nn.silu(c), norm, self.patch, x.shape, self.dtype)

        ratio = 1.5 * (self.hidden + 0.5) / self.width  # two thirds of it, rounded down, are `hidden`
        fields = (self.heads, ratio, "scaled_rmsnorm", "swiglu", True, self.attention, self.dtype)
        arguments, axes = (nn.silu(c), angles, {}), (nn.broadcast, nn.broadcast, 0)
        return single_stack(self, Block, fields, tokens, arguments, axes, output, features, picture=picture)

    def _check(self, x, t, parts):
        network_checks.images(self, x)
        if x.shape[1:] != tuple(self.shape):
            raise ValueError(f"this network is made for noise of the shape {tuple(self.shape)}; got {x.shape[1:]}")
        network_checks.times(self, x, t)
        conditions.check_label(parts["label"], x.shape[0], self.num_classes)
        for name, shape in (("strength", x.shape[:1]), ("style", (x.shape[0], self.codes))):
            if parts[name] is not None and parts[name].shape != shape:
                raise ValueError(f"the condition's {name!r} has shape {shape}; got {parts[name].shape}")


def drifting_preset(size: str, num_classes: int = 1000, **options: Any) -> DriftingDiT:
    """Builds the generator of a published size.

    Args:
        size: "B/2", "L/2" for latents (32, 32, 4) of Stable Diffusion's autoencoder, "B/16", "L/16" for pictures
            (256, 256, 3).
        num_classes: number of classes; the paper's networks have 1000.
        **options: other fields of `DriftingDiT`.

    Raises:
        ValueError: if the size is unknown, and under the conditions of `DriftingDiT`.

    Reference: Deng et al., 2026, table 8; the authors' configs/gen/latent_sota_*.yaml and pixel_sota_*.yaml.
    """
    sizes = {
        f"{name}/{patch}": {"patch": patch, "width": width, "depth": depth, "heads": heads, "shape": shape}
        for name, (width, depth, heads) in SIZES.items()
        for patch, shape in ((2, (32, 32, 4)), (16, (256, 256, 3)))
    }
    return DriftingDiT(num_classes=num_classes, **(look_up(sizes, size, "size") | options))
