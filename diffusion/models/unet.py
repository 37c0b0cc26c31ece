"""The U-Nets of DDPM and ADM (guided diffusion): one network with options for both.

    x_t -- conv_in ------------------------------------------------- conv_out(silu(norm_out)) -- output
              |            skips, one after each box                      |
           level 0   n [ResnetBlock, (ImageAttention)]   --> (n + 1) [ResnetBlock, (ImageAttention)]
              | / 2                                                       | x 2
           level 1   ...                                 -->             ...
              | / 2                                                       | x 2
           level L-1 ...                                 -->             ...
              +------ middle: ResnetBlock, ImageAttention, ResnetBlock ---+

    sinusoid(t) -> dense, silu, dense -> + class -> every ResnetBlock

|                | DDPM                             | ADM                                         |
|----------------|----------------------------------|---------------------------------------------|
| the time is    | added                            | a scale and a shift after the norm          |
| sides change   | in a convolution                 | in a ResnetBlock, by means and repetition   |
| heads          | one                              | of 64 channels                              |
| output         | C                                | 2 C, the last C for the variance            |

`axes` is 2 for pictures, 1 for series, and 3 for volumes or short video.
"""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.not_a_number import table_rows
from diffusion.models.layers import network_checks, unet_inputs
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.block_reuse import Deep, taken_by
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.convolutions import ACTIVATIONS, GroupNorm, ResnetBlock, conv, upsample
from diffusion.models.layers.dropout import keys_of
from diffusion.models.layers.embeddings import sinusoid
from diffusion.models.layers.image_attention import ImageAttention
from diffusion.models.layers.network_bases import Backbone, Condition, Numbers
from diffusion.models.layers.scan import rematerialised
from diffusion.models.layers.unet_levels import UNetLevels


class UNet(UNetLevels, Backbone):
    """The U-Net of DDPM or ADM: `apply(variables, x, t, condition)` is a `Network`.

    Parameters are float32 whatever the compute type, and so is the output.

    Attributes:
        widths: channels of each level, the finest first.
        blocks: residual blocks of a level on the way down; one more on the way up.
        attention_levels: levels that have attention after each of their blocks.
        num_classes: number of classes, see `diffusion.models.layers.unet_inputs`; 0 for an unconditional network.
        in_channels: C of the input.
        out_channels: number of channels of the output; 2 C for a learned variance (Nichol & Dhariwal, 2021).
        heads: attention heads of every level; None where `head_size` decides.
        head_size: channels of a head; None where `heads` decides.
        scale_shift: whether the embedding scales and shifts the norm (ADM); otherwise it is added (DDPM).
        resample: the operation that changes the side, "conv" or "block", see the table above.
        padding: padding of the convolutions that halve: zeros on "both" sides, or only at the "end" (DDPM's code).
        features: number of sinusoids of the time; None: widths[0].
        frequency_shift: shift of the sinusoids' frequencies, 0 or 1 (DDPM), see `embeddings.sinusoid`.
        sines_first: whether the sines precede the cosines in the sinusoids.
        groups: number of groups of the norms, a divisor of the widths.
        epsilon: epsilon of the norms, > 0.
        dropout: rate in the blocks, drawn where a call has `dropout_keys`.
        resolution: side of the pictures of its training, if known; does not change the network.
        axes: number of axes of x between batch and channels: 1 for series [B, L, C], 2 for images, 3 for volumes
            [B, D, H, W, C].
        vector_width: number of values in the condition's "vector", which is added to the embedding; 0 for none.
        vector_embedding: way by which the vector is added: "linear" by a dense layer; "identity" unchanged, as wide as
            the embedding; "time" as one number, which is embedded like the time, by separate layers.
        embedding_width: width of the embedding; None: four times the number of the time's features.
        qkv_per_head: whether the queries, keys and values of a head are adjacent in files of ADM's layout (in all files
            of the authors but ImageNet 64); does not change the network.
        middle_attention: whether there is attention between the two blocks of the middle.
        middle_groups: number of groups of the norm of that attention, 0 for no norm; None: `groups`.
        middle_gain: factor of the sums in the middle, > 0, see `ResnetBlock.gain`.
        centred: whether the input, in [0, 1], enters as 2 x - 1.
        activation: activation of the blocks: "silu", "gelu", "relu" or "mish".
        learned_times: number of times 0, 1, ... that have learned features in place of sinusoids, which the time that
            is nearest to t gives; 0: sinusoids.
        remat: parts of the blocks to compute again in the backward pass: "none"; "elementwise", all but products,
            convolutions and attention; "dots", all but products without batch dimensions; or "full".

    Reference: Ho et al., "Denoising Diffusion Probabilistic Models", 2020, appendix B; Dhariwal & Nichol, "Diffusion
    Models Beat GANs on Image Synthesis", 2021, section 3.
    """

    widths: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...] = ()
    num_classes: int = 0
    in_channels: int = 3
    out_channels: int = 3
    heads: int | None = 1
    head_size: int | None = None
    scale_shift: bool = False
    resample: str = "conv"
    padding: str = "both"
    features: int | None = None
    frequency_shift: int = 0
    sines_first: bool = False
    groups: int = 32
    epsilon: float = 1e-5
    dropout: float = 0.0
    resolution: int | None = None
    axes: int = 2
    vector_width: int = 0
    vector_embedding: str = "linear"
    embedding_width: int | None = None
    qkv_per_head: bool = False
    middle_attention: bool = True
    middle_groups: int | None = None
    middle_gain: float = 1.0
    centred: bool = False
    activation: str = "silu"
    learned_times: int = 0
    ranks = (2, 3, 4)
    reuses = ("deep",)
    positive = ("blocks", "in_channels", "out_channels", "groups", "epsilon", "middle_gain")
    choices = Backbone.choices | {
        "resample": ("conv", "block"),
        "padding": ("both", "end"),
        "vector_embedding": ("linear", "identity", "time"),
        "activation": tuple(ACTIVATIONS),
    }

    def check_fields(self) -> None:
        super().check_fields()
        for field in ("widths", "attention_levels"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if not self.widths:
            raise ValueError("widths=() must be one width for each level")
        if self.axes not in unet_inputs.KINDS:
            raise ValueError(f"axes={self.axes} must be 1 (series), 2 (images) or 3 (volumes, video)")
        if self.vector_width < 0:
            raise ValueError(f"vector_width={self.vector_width} must be 0 (no vector), or the length of the vector")
        width = {"linear": self.vector_width, "identity": self.time_width, "time": 1}[self.vector_embedding]
        if self.vector_width != width:
            raise ValueError(
                f"vector_width={self.vector_width} must be {width} with vector_embedding={self.vector_embedding!r}"
            )
        network_checks.classes(self)
        network_checks.positive(self, ("learned_times",), zero=True)
        if (self.heads is None) == (self.head_size is None):
            raise ValueError(
                f"heads={self.heads} and head_size={self.head_size}: set one of them, and the other to None"
            )
        if any(width <= 0 or width % self.groups for width in self.widths):
            raise ValueError(f"groups={self.groups} must divide every width of widths={self.widths}")
        groups = self.middle_groups
        if groups is not None and (groups < 0 or (groups and self.widths[-1] % groups)):
            raise ValueError(f"middle_groups={groups} must be 0, or divide the width {self.widths[-1]} of the middle")
        for level in {*self.attention_levels, len(self.widths) - 1}:
            if not 0 <= level < len(self.widths):
                raise ValueError(
                    f"attention_levels={self.attention_levels}: there is no level {level}. Valid: "
                    f"0 .. {len(self.widths) - 1}"
                )
            if self.widths[level] % (self.heads or self.head_size or 1):
                raise ValueError(
                    f"{'heads' if self.heads else 'head_size'}={self.heads or self.head_size} does not "
                    f"divide the width {self.widths[level]} of level {level}"
                )
        if self.time_features % 2 or self.time_features < 4 or self.frequency_shift not in (0, 1):
            raise ValueError(
                f"features={self.time_features} must be even and at least 4, and frequency_shift="
                f"{self.frequency_shift} 0 or 1"
            )

    @property
    def time_features(self) -> int:
        """Number of sinusoids of the time."""
        return self.widths[0] if self.features is None else self.features

    @property
    def time_width(self) -> int:
        """Width of the embedding of the time."""
        return 4 * self.time_features if self.embedding_width is None else self.embedding_width

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        condition: Condition = None,
        dropout_keys: jax.Array | None = None,
        features: Numbers = None,
        branch: int | None = None,
        deep: jax.Array | None = None,
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: images [B, H, W, in_channels], or with `axes` sides; 2^(levels - 1) divides all sides.
            t: the network's clock, [B] or [], float32 or wider; 0 .. 999 for the published networks.
            condition: class labels int [B] in 0 .. num_classes, or None if num_classes is 0; or a dict with "label",
                these labels, "vector" [B, vector_width], and "residuals" for the skips, in order, and the middle, see
                `models.layers.conditions`.
            dropout_keys: one key for each example, [B], by which dropout is drawn; None: nothing is dropped.
            branch: a skip connection, 0 the outermost; the call also returns the input of the block that takes it.
            deep: the deep features of an earlier call, with which nothing deeper than the branch runs; None: all runs.
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, H, W, out_channels], with the sides of x; with `branch`: (that, `block_reuse.Deep`).
        """
        inputs = unet_inputs.checked(
            condition,
            x,
            t,
            channels=self.in_channels,
            halvings=len(self.widths) - 1,
            num_classes=self.num_classes,
            axes=self.axes,
            vector_width=self.vector_width,
        )
        recorded = Features(features, self.feature_blocks)
        embedding = self._embedding(jnp.broadcast_to(t, x.shape[:1]), inputs["label"], inputs["vector"])
        block_class, attention_class = (rematerialised(kind, self.remat) for kind in (ResnetBlock, ImageAttention))
        numbers = itertools.count()  # numbers of the blocks: each draws its own dropout

        def block(h: jax.Array, level: int, name: str, resample: str = "keep", gain: float = 1.0) -> jax.Array:
            return block_class(
                self.widths[level],
                self.groups,
                self.epsilon,
                self.scale_shift,
                self.dropout,
                self.dtype,
                resample,
                gain=gain,
                activation=self.activation,
                name=name,
            )(h, embedding, keys_of(dropout_keys, next(numbers)))

        def attend(h: jax.Array, name: str, groups: int = self.groups, gain: float = 1.0) -> jax.Array:
            return attention_class(
                self.heads or h.shape[-1] // (self.head_size or 1),
                groups,
                self.epsilon,
                gain=gain,
                attention=self.attention,
                dtype=self.dtype,
                name=name,
            )(h)

        def row(h: jax.Array, level: int, name: str) -> jax.Array:
            h = block(h, level, name)
            h = attend(h, f"{name}_attention") if level in self.attention_levels else h
            recorded.block(h)
            return h

        first = taken_by(branch, deep, len(self.widths) * (self.blocks + 1))
        number = None if deep is None else (branch or 0) + 1  # number of skips that the last blocks take
        h = conv(self.widths[0], axes=self.axes, dtype=self.dtype, name="conv_in")(2 * x - 1 if self.centred else x)
        skips = [h]
        for i in range(len(self.widths)):
            for j in range(self.blocks):
                if len(skips) != number:
                    h = row(h, i, f"down_{i}_block_{j}")
                    skips.append(h)
            if i < len(self.widths) - 1 and len(skips) != number:
                down = self._convolve_down if self.resample == "conv" else functools.partial(block, resample="down")
                h = down(h, i, f"down_{i}_resample")
                skips.append(h)

        last = len(self.widths) - 1
        if deep is None:
            groups = self.groups if self.middle_groups is None else self.middle_groups
            h = block(h, last, "middle_block_0", gain=self.middle_gain)
            h = attend(h, "middle_attention", groups, self.middle_gain) if self.middle_attention else h
            h = block(h, last, "middle_block_1", gain=self.middle_gain)
            recorded.block(h)
        residuals = inputs["residuals"]
        if deep is not None and residuals is not None:
            residuals = (*residuals[: len(skips)], jnp.zeros_like(h))
        skips, h = unet_inputs.with_residuals(skips, h, residuals)

        start = h if deep is None else deep
        done = 0
        for i in reversed(range(len(self.widths))):
            for j in range(self.blocks + 1):
                if done == first:
                    h = start = h if deep is None else deep
                done += 1
                if deep is not None and done <= first:
                    continue
                h = row(jnp.concatenate([h, skips.pop()], axis=-1), i, f"up_{i}_block_{j}")
            if i == 0 or (deep is not None and done <= first):
                continue
            if self.resample == "conv":
                h = conv(self.widths[i], axes=self.axes, dtype=self.dtype, name=f"up_{i}_resample")(upsample(h))
            else:
                h = block(h, i, f"up_{i}_resample", "up")

        h = nn.silu(GroupNorm(self.groups, self.epsilon, name="norm_out")(h))
        # In float32: bfloat16 would round the output to 8 bits.
        last = conv(self.out_channels, axes=self.axes, zero=True, dtype="float32", name="conv_out")
        output = last(h.astype(jnp.float32))
        return recorded.beside(output) if branch is None else (output, Deep(start, recorded.done, self.feature_blocks))

    def _embedding(self, t: jax.Array, label: jax.Array | None, vector: jax.Array | None) -> jax.Array:
        """The embedding of clock, class and vector, [B, time_width]."""
        table = None
        if self.learned_times:
            table = self.param("times", nn.initializers.normal(1.0), (self.learned_times, self.time_features))

        def embedded(number: jax.Array, name: str) -> jax.Array:
            """An embedding of a number, [B] -> [B, time_width], by the features of the time."""
            if table is not None:
                nearest = jnp.rint(number).astype(jnp.int32)
                features = table_rows(table, nearest)
            else:
                shift, sines_first = self.frequency_shift, self.sines_first
                features = sinusoid(number, self.time_features, shift=shift, sines_first=sines_first)
            h = nn.silu(nn.Dense(self.time_width, dtype=self.dtype, name=f"{name}_hidden")(features))
            return nn.Dense(self.time_width, dtype=self.dtype, name=f"{name}_out")(h)

        h = embedded(t, "time")
        if self.num_classes:
            init = nn.initializers.normal(1.0)
            classes = self.param("classes", init, (self.num_classes, self.time_width))
            h = h + unet_inputs.class_rows(classes, label).astype(h.dtype)
        if vector is None:
            return h
        if self.vector_embedding == "time":
            return h + embedded(vector[:, 0], "vector")
        if self.vector_embedding == "linear":
            return h + nn.Dense(self.time_width, dtype=self.dtype, name="vector")(vector).astype(h.dtype)
        return h + vector.astype(h.dtype)

    def _convolve_down(self, h: jax.Array, level: int, name: str) -> jax.Array:
        """A convolution of stride 2, with the zeros of `padding`."""
        border = {"both": (1, 1), "end": (0, 1)}[self.padding]
        return nn.Conv(
            self.widths[level], (3,) * self.axes, (2,) * self.axes, [border] * self.axes, dtype=self.dtype, name=name
        )(h)


def _sizes(widths: tuple[int, ...], blocks: int, attention_levels: tuple[int, ...], side: int) -> dict[str, Any]:
    return {"widths": widths, "blocks": blocks, "attention_levels": attention_levels, "resolution": side}


DDPM = {"padding": "end", "frequency_shift": 1, "sines_first": True, "epsilon": 1e-6}
ADM = {"scale_shift": True, "resample": "block", "heads": None, "head_size": 64, "out_channels": 6}
PRESETS = {
    "ddpm-cifar10": DDPM | _sizes((128, 256, 256, 256), 2, (1,), 32) | {"dropout": 0.1},
    "ddpm-256": DDPM | _sizes((128, 128, 256, 256, 512, 512), 2, (4,), 256),  # LSUN and CelebA-HQ
    "adm-64": ADM | _sizes((192, 384, 576, 768), 3, (1, 2, 3), 64) | {"dropout": 0.1},
    "adm-128": ADM | _sizes((256, 256, 512, 768, 1024), 2, (2, 3, 4), 128) | {"heads": 4, "head_size": None},
    "adm-256": ADM | _sizes((256, 256, 512, 512, 1024, 1024), 2, (3, 4, 5), 256),
    "adm-512": ADM | _sizes((128, 256, 256, 512, 512, 1024, 1024), 2, (4, 5, 6), 512) | {"features": 256},
}


def unet_preset(name: str, num_classes: int = 0, **options: Any) -> UNet:
    """Builds a U-Net of a published size.

    Args:
        name: "ddpm-cifar10" and "ddpm-256" of Ho et al. (2020); "adm-64" to "adm-512" of Dhariwal & Nichol (2021),
            with a learned variance.
        num_classes: number of classes of a class-conditional network; the ImageNet networks of the latter have 1000.
        **options: other fields of `UNet`.

    Raises:
        ValueError: for an unknown name, and as `UNet`.
    """
    return UNet(**{**look_up(PRESETS, name, "name"), "num_classes": num_classes, **options})
