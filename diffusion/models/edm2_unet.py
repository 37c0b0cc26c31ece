"""EDM2's U-Net: it has no norms with learned scales and no biases, and every layer keeps the magnitude of its input.

    [x_t, 1] -- conv_in ------------------------------------------------- gain conv_out -- output
                  |            skips, one after each box                    |
               level 0   n [encoder box]     -->   (n + 1) [mp_cat, decoder box]
                  | / 2, box                                                | x 2, box
               level 1   ...                 -->           ...
                  | / 2, box                                                | x 2, box
               level L-1 ...                 -->           ...
                  +------ decoder box with attention, decoder box ----------+

    encoder box: x = unit(skip(x));  y = conv(mp_silu((1 + gain emb) conv(mp_silu(x))));  mp_sum(x, y, 0.3)
    decoder box: the same without unit, and y is computed before skip(x)
    attention, after a box: unit q, k and v;  mp_sum(.., 0.3)
    mp_silu(mp_sum(dense(fourier(ln(sigma) / 4)), dense(class))) -> every box

Pictures and features are channels last.
"""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import layout, network_checks, unet_inputs
from diffusion.models.layers.attention import attention
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.dropout import dropped, keys_of
from diffusion.models.layers.magnitude import FORCED, MPConv, MPFourier, mp_cat, mp_silu, mp_sum, unit
from diffusion.models.layers.network_bases import Backbone, Condition, Numbers
from diffusion.models.layers.resampling import double, halve
from diffusion.models.layers.scan import rematerialised
from diffusion.models.layers.unet_levels import LevelsByResolution


class EDM2Block(nn.Module):
    """A box of EDM2's U-Net, see the module's docstring.

    Attributes:
        features: number of channels of the output.
        decoder: whether the box belongs to the decoder rather than the encoder.
        resample: "keep", or "down" or "up" to halve or double the sides of the input.
        heads: number of heads of the attention at the end of the box; 0 for no attention.
        taps: taps of the resampling filter.
        dropout: rate of dropout in the branch.
        residual_balance: weight t of the branch in `mp_sum`.
        attention_balance: weight t of the attention in `mp_sum`.
        clip: bound of the output's absolute value; None for no bound.
        attention: implementation of attention.
        dtype: compute type.

    Reference: Karras et al., 2024, figure 21 and appendix B.
    """

    features: int
    decoder: bool = False
    resample: str = "keep"
    heads: int = 0
    taps: tuple[int, ...] = (1, 1)
    dropout: float = 0.0
    residual_balance: float = 0.3
    attention_balance: float = 0.3
    clip: float | None = 256.0
    attention: str = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """(x [B, H, W, C], the embedding [B, E], the keys of dropout [B] or None) -> [B, H', W', features]."""
        layer = lambda features, side, name: MPConv(features, side, self.dtype, name=name)
        if self.resample != "keep":
            x = {"down": halve, "up": double}[self.resample](x, self.taps)
        skip = layer(self.features, 1, "skip") if x.shape[-1] != self.features else lambda x: x
        if not self.decoder:
            x = unit(skip(x), (-1,))
        y = layer(self.features, 3, "conv_1")(mp_silu(x))
        gain = self.param("embedding_gain", nn.initializers.zeros_init(), ())
        c = layer(self.features, 0, "embedding")(embedding, gain) + 1
        y = mp_silu(y * c[:, None, None].astype(y.dtype))
        y = dropped(y, dropout_keys, self.dropout)
        y = layer(self.features, 3, "conv_2")(y)
        x = mp_sum(skip(x) if self.decoder else x, y, self.residual_balance)
        if self.heads:
            x = mp_sum(x, self._attend(x), self.attention_balance)
        if self.clip is not None:
            x = jnp.clip(x, -self.clip, self.clip)
        return layout.split(x, "batch", None, None, None)

    def _attend(self, x: jax.Array) -> jax.Array:
        """Attention over all pixels, with queries, keys and values of magnitude 1: scores are cosines times sqrt(D)."""
        batch, height, width, channels = x.shape
        qkv = MPConv(3 * channels, 0, self.dtype, name="attention_qkv")(x.reshape(batch, -1, channels))
        qkv = unit(qkv.reshape(batch, height * width, 3, self.heads, channels // self.heads), (-1,))
        h = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], self.attention)
        return MPConv(channels, 0, self.dtype, name="attention_out")(h.reshape(batch, -1, channels)).reshape(x.shape)


class EDM2UNet(LevelsByResolution, Backbone):
    """EDM2's magnitude-preserving U-Net: `apply(variables, x, t, condition)` is a `Network`.

    `parameterizations.edm` provides the clock ln(sigma) / 4 and images of magnitude 1. The initial output is 0. In
    training, `magnitude.forced` returns the weights to magnitude 1 after each update, `objectives.with_uncertainty`
    weights the loss, and `training.power_ema` averages the parameters. Parameters and output are float32 for every
    compute type.

    Attributes:
        resolution: side of the images (or latents) for which the network is built. Levels whose side for such images is
            in `attention_resolutions` have attention, whatever the side in a call.
        width: base number of channels.
        multipliers: number of channels of each level divided by `width`, the finest level first.
        blocks: number of boxes of a level in the encoder; the decoder has one more.
        attention_resolutions: sides of the levels with attention.
        channels: number of channels of input and output.
        num_classes: number of classes, see `diffusion.models.layers.unet_inputs`; 0 for an unconditional network.
        noise_multiplier: number of Fourier features of the clock divided by `width`; None for the first level's width.
        embedding_multiplier: width of the embedding divided by `width`; None for the widest level's width.
        label_balance: weight of the class in the embedding, in [0, 1].
        concat_balance: weight of the skip in the decoder's input, in [0, 1].
        residual_balance, attention_balance: weights of the branches in the sums, in [0, 1], see `EDM2Block`.
        head_size: number of channels of a head.
        taps: taps of the resampling filter, see `diffusion.models.layers.resampling`.
        dropout: rate of dropout in the boxes; it is applied if a call has `dropout_keys`.
        clip: bound of the activations after each box; None for no bound.
        remat: parts to compute again in the backward pass of the boxes: "none", "full", or "dots" (all but matmuls).

    Reference: Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", 2024, config G.
    """

    resolution: int
    width: int = 192
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention_resolutions: tuple[int, ...] = (16, 8)
    channels: int = 3
    num_classes: int = 0
    noise_multiplier: int | None = None
    embedding_multiplier: int | None = None
    label_balance: float = 0.5
    concat_balance: float = 0.5
    residual_balance: float = 0.3
    attention_balance: float = 0.3
    head_size: int = 64
    taps: tuple[int, ...] = (1, 1)
    dropout: float = 0.0
    clip: float | None = 256.0
    ranks = (3,)
    positive = ("resolution", "width", "blocks", "channels", "head_size")

    def check_fields(self) -> None:
        super().check_fields()
        network_checks.classes(self)
        for field in ("noise_multiplier", "embedding_multiplier", "clip"):
            if getattr(self, field) is not None and getattr(self, field) <= 0:
                raise ValueError(f"{field}={getattr(self, field)} must be None or positive")
        for field in ("label_balance", "concat_balance", "residual_balance", "attention_balance"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field}={getattr(self, field)} must be in [0, 1]")
        for level, width in enumerate(self.widths):
            if width % self.head_size and (self.attends(level) or level == len(self.widths) - 1):
                raise ValueError(f"head_size={self.head_size} does not divide the {width} channels of level {level}")

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        condition: Condition = None,
        dropout_keys: jax.Array | None = None,
        features: Numbers = None,
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: images of magnitude 1, [B, H, W, channels]; 2^(levels - 1) divides H and W.
            t: ln(sigma) / 4, [B] or [], float32 or wider.
            condition: class labels int [B] in 0 .. num_classes, or None if num_classes is 0; or a dict with the entry
                "label" and "residuals", which are added to the skips in order and to the middle, see
                `models.layers.conditions`.
            dropout_keys: the keys of dropout, one for each example, [B]; None for no dropout.
            features: numbers of blocks, from 1, whose features are returned too, see `network_bases.Backbone`.

        Returns:
            [B, H, W, channels].
        """
        inputs = unet_inputs.checked(
            condition, x, t, channels=self.channels, halvings=len(self.widths) - 1, num_classes=self.num_classes
        )
        recorded = Features(features, self.feature_blocks)
        embedding = self._embedding(jnp.broadcast_to(t, x.shape[:1]), inputs["label"]).astype(self.dtype)
        block_class = rematerialised(EDM2Block, self.remat)
        numbers = itertools.count()  # the boxes' numbers, which make their dropout independent

        def box(h: jax.Array, channels: int, name: str, attend: bool = False, **side) -> jax.Array:
            block = block_class(
                channels,
                heads=channels // self.head_size if attend else 0,
                taps=self.taps,
                dropout=self.dropout,
                residual_balance=self.residual_balance,
                attention_balance=self.attention_balance,
                clip=self.clip,
                attention=self.attention,
                dtype=self.dtype,
                **side,
                name=name,
            )
            return block(h, embedding, keys_of(dropout_keys, next(numbers)))

        # The channel of ones replaces biases, which no layer has.
        h = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        h = MPConv(self.widths[0], 3, self.dtype, name="conv_in")(h)
        skips = [h]
        for i, channels in enumerate(self.widths):
            if i:
                h = box(h, h.shape[-1], f"down_{i}_resample", resample="down")
                skips.append(h)
            for j in range(self.blocks):
                h = box(h, channels, f"down_{i}_block_{j}", self.attends(i))
                recorded.block(h)
                skips.append(h)

        h = box(h, self.widths[-1], "middle_block_0", True, decoder=True)
        h = box(h, self.widths[-1], "middle_block_1", decoder=True)
        recorded.block(h)
        skips, h = unet_inputs.with_residuals(skips, h, inputs["residuals"])

        for i, channels in reversed(list(enumerate(self.widths))):
            if i < len(self.widths) - 1:
                h = box(h, h.shape[-1], f"up_{i}_resample", decoder=True, resample="up")
            for j in range(self.blocks + 1):
                h = mp_cat(h, skips.pop(), self.concat_balance)
                h = box(h, channels, f"up_{i}_block_{j}", self.attends(i), decoder=True)
                recorded.block(h)
        gain = self.param("gain", nn.initializers.zeros_init(), ())
        # In float32, since bfloat16 would round the output to 8 bits.
        return recorded.beside(MPConv(self.channels, 3, "float32", name="conv_out")(h.astype(jnp.float32), gain))

    def _embedding(self, t: jax.Array, label: jax.Array | None) -> jax.Array:
        """The embedding of clock and class, [B, E], in float32."""
        noise = self.widths[0] if self.noise_multiplier is None else self.width * self.noise_multiplier
        width = max(self.widths) if self.embedding_multiplier is None else self.width * self.embedding_multiplier
        h = MPConv(width, 0, name="noise")(MPFourier(noise, name="fourier")(t))
        if self.num_classes:
            # MPConv on sqrt(num_classes) times the one-hot vector of the class equals a row of the normalised weights.
            table = ClassWeights(self.num_classes, width, name="class")()
            h = mp_sum(h, unet_inputs.class_rows(table, label), self.label_balance)
        return mp_silu(h)


class ClassWeights(nn.Module):
    """The normalised weights [num_classes, width] of an MPConv on one-hot vectors."""

    num_classes: int
    width: int

    @nn.compact
    def __call__(self) -> jax.Array:
        return unit(self.param(FORCED, nn.initializers.normal(1.0), (self.num_classes, self.width)), (0,))


WIDTHS = {"XXS": 64, "XS": 128, "S": 192, "M": 256, "L": 320, "XL": 384, "XXL": 448}  # table 6 of the paper
PRESETS = {
    f"{size}/{side}": {
        "width": width,
        "resolution": 64,
        "channels": {"64": 3, "512": 4}[side],
        "num_classes": 1000,
        "dropout": 0.1 if width >= 256 else 0.0,
    }
    for size, width in WIDTHS.items()
    for side in ("64", "512")
    if f"{size}/{side}" not in ("XXS/64", "XXL/64")  # these two are not published
}


def edm2_preset(name: str, **options: Any) -> EDM2UNet:
    """Builds a U-Net of a published size.

    Args:
        name: "XXS/512" to "XXL/512", on the latents of ImageNet at 512 x 512 (64 x 64 x 4), or "XS/64" to "XL/64", on
            its pictures at 64 x 64.
        **options: other fields of `EDM2UNet`.

    Raises:
        ValueError: if the name is unknown, or `EDM2UNet` refuses a field.
    """
    return EDM2UNet(**{**look_up(PRESETS, name, "name"), **options})
