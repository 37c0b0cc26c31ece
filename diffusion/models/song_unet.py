"""DDPM++ and NCSN++, the U-Nets of Song et al. (2021), with the options of EDM's code.

    x_t ---- conv_in ------------------------- conv(silu(norm)) -- output            (decoder "standard")
      |         |           skips                    |
      |      level 0   n [box]   -->   (n + 1) [box] (attention only in the last)
      |/2       | /2 box                             | x 2 box
      +-(aux)- level 1   ...     -->     ...         +- conv(silu(norm)) - x 2 - + - output   ("skip", every level)
      |/2       | /2 box                             | x 2 box
      +-(aux)- level L-1 ...     -->     ...
                +---- box with attention, box -------+

    box = sqrt(1/2) (x + block(x)), then sqrt(1/2) (x + attention(x));   aux: encoder "skip" or "residual"
    sines(clock) + class + augmentation -> dense, silu, dense, silu -> every box

|                      | DDPM++     | NCSN++         | NCSN++ of Song et al., 256 x 256 |
|----------------------|------------|----------------|----------------------------------|
| clock                | positional | fourier        | fourier                          |
| encoder              | standard   | residual       | skip                             |
| decoder              | standard   | standard       | skip                             |
| taps                 | (1, 1)     | (1, 3, 3, 1)   | (1, 3, 3, 1)                     |
"""

import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import network_checks, unet_inputs
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.constants import constant
from diffusion.models.layers.convolutions import GroupNorm, ResnetBlock, conv
from diffusion.models.layers.dropout import keys_of
from diffusion.models.layers.embeddings import sinusoid
from diffusion.models.layers.image_attention import ImageAttention
from diffusion.models.layers.network_bases import Backbone, Condition, Numbers
from diffusion.models.layers.resampling import double, halve
from diffusion.models.layers.scan import rematerialised
from diffusion.models.layers.unet_levels import LevelsByResolution

HALF = math.sqrt(0.5)  # keeps the variance of a sum of two
NORM = {"groups": 32, "epsilon": 1e-6, "least": 4}


class SongUNet(LevelsByResolution, Backbone):
    """The U-Net of DDPM++ or NCSN++: `apply(variables, x, t, condition)` is a `Network`.

    EDM's checkpoints receive the clock ln(sigma) / 4 (`parameterizations.edm`). Parameters are float32 whatever the
    compute type, and so is the output.

    Attributes:
        resolution: side of the pictures of its training; the levels whose side is then one of
            `attention_resolutions` have attention, for pictures of any side.
        width: base number of channels; all others are multiples of it.
        multipliers: channels of each level over `width`, the finest first.
        blocks: residual blocks of a level on the way down; one more on the way up.
        attention_resolutions: sides with attention.
        num_classes: number of classes, see `diffusion.models.layers.unet_inputs`; 0 for an unconditional network.
        augmentations: numbers that describe the augmentation of an example (EDM: 9); 0 for none.
        in_channels, out_channels: numbers of channels of input and output.
        clock: "positional" or "fourier" features of the time; the frequencies of the latter are random constants.
        clock_multiplier: number of these features over `width`.
        encoder: "standard", or the copy of the image that each level adds: "skip" a filtered one, "residual" the
            filtered sum of the level before.
        decoder: "standard", or "skip": every level adds to the output.
        taps: taps of the resampling filter, see `diffusion.models.layers.resampling`.
        dropout: rate in the blocks, drawn where a call has `dropout_keys`.
        remat: parts of the blocks to compute again in the backward pass: "none"; "elementwise", all but products,
            convolutions and attention; "dots", all but products without batch dimensions; or "full".

    Reference: Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2021, appendix
    H; Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, appendix F.
    """

    resolution: int
    width: int = 128
    multipliers: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    attention_resolutions: tuple[int, ...] = (16,)
    num_classes: int = 0
    augmentations: int = 0
    in_channels: int = 3
    out_channels: int = 3
    clock: str = "positional"
    clock_multiplier: int = 1
    encoder: str = "standard"
    decoder: str = "standard"
    taps: tuple[int, ...] = (1, 1)
    dropout: float = 0.0
    ranks = (3,)
    positive = ("resolution", "width", "blocks", "in_channels", "out_channels", "clock_multiplier")
    choices = Backbone.choices | {
        "clock": ("positional", "fourier"),
        "encoder": ("standard", "skip", "residual"),
        "decoder": ("standard", "skip"),
    }

    def check_fields(self) -> None:
        super().check_fields()
        network_checks.positive(self, ("num_classes", "augmentations"), zero=True)
        if self.width % 4 or self.width * self.clock_multiplier < 4:
            raise ValueError(f"width={self.width} must be a multiple of 4")

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
            x: images [B, H, W, in_channels]; 2^(levels - 1) divides H and W.
            t: the network's clock, [B] or [], float32 or wider.
            condition: class labels int [B] in 0 .. num_classes, or None if num_classes is 0; or a dict with "label",
                these labels, "augment" [B, augmentations] (zeros if absent), and "residuals" for the skips, in order,
                and the middle, see `diffusion.models.layers.conditions`.
            dropout_keys: one key for each example, [B], by which dropout is drawn; None: nothing is dropped.
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, H, W, out_channels].
        """
        optional = ("augment",) if self.augmentations else ()
        inputs = unet_inputs.checked(
            condition,
            x,
            t,
            channels=self.in_channels,
            halvings=len(self.widths) - 1,
            num_classes=self.num_classes,
            optional=optional,
        )
        recorded = Features(features, self.feature_blocks)
        embedding = self._embedding(jnp.broadcast_to(t, x.shape[:1]), inputs)
        block_class, attention_class = (rematerialised(kind, self.remat) for kind in (ResnetBlock, ImageAttention))
        numbers = itertools.count()  # numbers of the blocks: each draws its own dropout

        def box(h: jax.Array, channels: int, name: str, resample: str = "keep", attend: bool = False) -> jax.Array:
            block = block_class(
                channels,
                dropout=self.dropout,
                dtype=self.dtype,
                resample=resample,
                taps=self.taps,
                project=resample != "keep",
                gain=HALF,
                **NORM,
                name=name,
            )
            h = block(h, embedding, keys_of(dropout_keys, next(numbers)))
            if not attend:
                return h
            return attention_class(
                gain=HALF, attention=self.attention, dtype=self.dtype, **NORM, name=f"{name}_attention"
            )(h)

        h = conv(self.width, dtype=self.dtype, name="conv_in")(x)
        skips = [h]
        side = x.astype(self.dtype)
        for i, channels in enumerate(self.widths):
            if i:
                h = box(h, h.shape[-1], f"down_{i}_resample", "down")
                h, side = self._add_image(h, side, i)
                skips.append(h)
            for j in range(self.blocks):
                h = box(h, channels, f"down_{i}_block_{j}", attend=self.attends(i))
                recorded.block(h)
                skips.append(h)

        h = box(h, self.widths[-1], "middle_block_0", attend=True)
        h = box(h, self.widths[-1], "middle_block_1")
        recorded.block(h)
        skips, h = unet_inputs.with_residuals(skips, h, inputs["residuals"])

        output = None
        for i, channels in reversed(list(enumerate(self.widths))):
            if i < len(self.widths) - 1:
                h = box(h, h.shape[-1], f"up_{i}_resample", "up")
            for j in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = box(h, channels, f"up_{i}_block_{j}", attend=j == self.blocks and self.attends(i))
                recorded.block(h)
            if self.decoder == "skip" or i == 0:
                # In float32: bfloat16 would round the output to 8 bits.
                part = nn.silu(GroupNorm(**NORM, name=f"norm_out_{i}")(h)).astype(jnp.float32)
                part = conv(self.out_channels, zero=True, dtype="float32", name=f"conv_out_{i}")(part)
                output = part if output is None else part + double(output, self.taps)
        assert output is not None  # there is at least one level
        return recorded.beside(output)

    def _embedding(self, t: jax.Array, inputs: dict) -> jax.Array:
        """The embedding of clock, class and augmentation, [B, 4 width], before its last silu."""
        size = self.width * self.clock_multiplier
        if self.clock == "positional":
            features = sinusoid(t, size, shift=1, sines_first=True)
        else:
            frequencies = constant(self, "frequencies", nn.initializers.normal(16.0), (size // 2,))
            angles = t[:, None] * (2 * jnp.pi * frequencies)
            features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        if self.num_classes:
            table = self.param("classes", nn.initializers.xavier_uniform(), (self.num_classes, size))
            bias = self.param("classes_bias", nn.initializers.zeros_init(), (size,))
            rows = unet_inputs.class_rows(table, inputs["label"])
            features = features + math.sqrt(self.num_classes) * rows + bias
        if self.augmentations:
            augment = inputs["augment"]
            shape = (t.shape[0], self.augmentations)
            if augment is None:
                augment = jnp.zeros(shape)
            if augment.shape != shape:
                raise ValueError(f"'augment' must be [B, augmentations] = {shape}; got shape {augment.shape}")
            features = features + nn.Dense(size, use_bias=False, name="augment")(augment)
        h = nn.silu(nn.Dense(4 * self.width, dtype=self.dtype, name="time_hidden")(features))
        return nn.Dense(4 * self.width, dtype=self.dtype, name="time_out")(h)

    def _add_image(self, h: jax.Array, side: jax.Array, level: int) -> tuple[jax.Array, jax.Array]:
        """Adds the image at this level's side to h; returns (h, the image that the next level halves)."""
        features = h.shape[-1]
        name = f"down_{level}_image"
        if self.encoder == "skip":
            side = halve(side, self.taps)
            return h + conv(features, 1, dtype=self.dtype, name=name)(side), side
        if self.encoder == "residual":
            border = 1 + len(self.taps) // 2 - 1  # the filter finds the convolution's values there, not zeros
            side = nn.Conv(features, (3, 3), padding=[(border, border)] * 2, dtype=self.dtype, name=name)(side)
            h = HALF * (h + halve(side, self.taps, padded=False))
            return h, h
        return h, side


DDPM_PP = {"clock": "positional"}
NCSN_PP = {"clock": "fourier", "clock_multiplier": 2, "encoder": "residual", "taps": (1, 3, 3, 1)}
PRESETS = {
    "ddpmpp-cifar10": {**DDPM_PP, "resolution": 32, "augmentations": 9, "dropout": 0.13},
    "ncsnpp-cifar10": {**NCSN_PP, "resolution": 32, "augmentations": 9, "dropout": 0.13},
    "ddpmpp-64": {**DDPM_PP, "resolution": 64, "multipliers": (1, 2, 2, 2), "augmentations": 9, "dropout": 0.05},
    "ncsnpp-64": {**NCSN_PP, "resolution": 64, "multipliers": (1, 2, 2, 2), "augmentations": 9, "dropout": 0.05},
    "ncsnpp-256": {
        **NCSN_PP,
        "resolution": 256,
        "multipliers": (1, 1, 2, 2, 2, 2, 2),
        "blocks": 2,
        "encoder": "skip",
        "decoder": "skip",
    },
}


def song_unet_preset(name: str, num_classes: int = 0, **options: Any) -> SongUNet:
    """Builds a U-Net of a published size.

    Args:
        name: "ddpmpp-cifar10", "ncsnpp-cifar10", and, for FFHQ and AFHQ, "ddpmpp-64" and "ncsnpp-64" of Karras et al.
            (2022); "ncsnpp-256" of Song et al. (2021).
        num_classes: number of classes of a class-conditional network.
        **options: other fields of `SongUNet`.

    Raises:
        ValueError: for an unknown name, and as `SongUNet`.
    """
    return SongUNet(**{**look_up(PRESETS, name, "name"), "num_classes": num_classes, **options})
