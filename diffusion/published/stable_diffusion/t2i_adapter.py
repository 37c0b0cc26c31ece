"""T2I-Adapter: a small network that reads a picture once, and adds its features to the levels of a U-Net.

    picture -- pixels of squares as channels -- conv_in -- [/ 2, in, residual blocks, out] -- ... one for each level
                                                                     |
                                           level_residuals, an entry of the U-Net's condition

Pictures and features are channels last.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import pixel_unshuffle
from diffusion.models.attachment import Attachment, same_size
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.convolutions import conv
from diffusion.published.stable_diffusion.network import ConditionalUNet, level_shapes

KINDS = ("full", "full_xl", "light")


class T2IAdapter(nn.Module):
    """The features of a picture, one array for each level of a U-Net; they do not depend on x_t or the time.

    Attributes:
        widths: channels of the features: the U-Net's levels' ("full_xl": and its middle's).
        blocks: residual blocks of each.
        factor: side of the squares whose pixels become channels.
        channels: number of channels of the picture: 3, or 1 for a grey one.
        kind: "full" halves the side before each feature but the first; "full_xl" only before the third; "light" halves
            as "full", and its blocks have a quarter of the width.
        dtype: compute type, "float32" or "bfloat16"; parameters are float32.

    Reference: Mou et al., "T2I-Adapter: Learning Adapters to Dig out More Controllable Ability for Text-to-Image
    Diffusion Models", 2023, section 3.3; the two other kinds come from the authors' code.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    factor: int = 8
    channels: int = 3
    kind: str = "full"
    dtype: str = "float32"

    def __post_init__(self):
        look_up(dict.fromkeys(KINDS), self.kind, "kind")
        super().__post_init__()

    def halves(self, level: int) -> bool:
        """Whether the side is halved before this feature."""
        return level == 2 if self.kind == "full_xl" else level > 0

    @nn.compact
    def __call__(self, picture: jax.Array) -> tuple[jax.Array, ...]:
        """Args:
            picture: [B, H, W, channels], in [0, 1].

        Returns:
            [B, h, w, width] for each feature.

        Raises:
            ValueError: for sides that `factor` does not divide, or another number of channels.
        """
        _, height, width, channels = picture.shape
        if channels != self.channels or height % self.factor or width % self.factor:
            raise ValueError(
                f"this T2I-Adapter reads pictures of {self.channels} channels whose sides are multiples of "
                f"{self.factor}; got {height} x {width} with {channels} channels"
            )
        h = pixel_unshuffle(picture, (self.factor, self.factor))
        light = self.kind == "light"
        if not light:
            h = conv(self.widths[0], dtype=self.dtype, name="conv_in")(h)
        features = []
        for level, out in enumerate(self.widths):
            inner = out // 4 if light else out
            if self.halves(level):
                h = _halved(h)
            if light or h.shape[-1] != inner:
                h = conv(inner, 1, dtype=self.dtype, name=f"level_{level}_in")(h)
            for block in range(self.blocks):
                name = f"level_{level}_block_{block}"
                more = nn.relu(conv(inner, dtype=self.dtype, name=f"{name}_first")(h))
                h = h + conv(inner, 3 if light else 1, dtype=self.dtype, name=f"{name}_second")(more)
            if light:
                h = conv(out, 1, dtype=self.dtype, name=f"level_{level}_out")(h)
            features.append(h.astype(jnp.float32))
        return tuple(features)

    def attachment(self, params: Any, denoiser: nn.Module, base: Any) -> Attachment:
        """This adapter as what sampling attaches to a U-Net.

        Args:
            params: parameters of this module.
            denoiser: the U-Net.
            base: its parameters.

        Raises:
            ValueError: for a denoiser that is no U-Net with such levels.
        """
        if not isinstance(denoiser, ConditionalUNet):
            raise ValueError(f"this T2I-Adapter is for a ConditionalUNet; the denoiser is a {type(denoiser).__name__}")
        theirs = tuple(shape[-1] for shape in level_shapes(denoiser, 64, 64))
        if self.widths not in (theirs, theirs[:-1]):
            raise ValueError(
                f"this T2I-Adapter is for another base: its features have {self.widths} channels, but the levels and "
                f"the middle of this U-Net have {theirs}"
            )
        entries = functools.partial(_entries, denoiser)
        return Attachment(params, entries, functools.partial(_read, self.channels), functools.partial(_encode, self))


def _halved(h: jax.Array) -> jax.Array:
    """Means of squares of 2 x 2 pixels, and of what there is of them at the end of an odd side; [B, H, W, C]."""
    ends = [(0, 0), (0, h.shape[1] % 2), (0, h.shape[2] % 2), (0, 0)]
    return nn.avg_pool(jnp.pad(h, ends, mode="edge"), (2, 2), (2, 2))


def _read(channels: int, picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture of `same_size`, in grey if the adapter reads one channel."""
    array = same_size(picture, size)
    return array if channels == 3 else array @ np.array([[0.299], [0.587], [0.114]], np.float32)


def _encode(module: T2IAdapter, params: Any, picture: jax.Array) -> tuple[Any, Any]:
    """The features, for both branches."""
    features = module.apply({"params": params}, picture)
    return features, features


def _entries(
    unet: ConditionalUNet,
    params: Any,
    weight: jax.Array,
    seen: Any,
    x: jax.Array,
    t: jax.Array,
    clock: jax.Array,
    condition: dict,
) -> dict[str, Any]:
    """The weighted features, an `Attachment.entries`; one more than there are levels is added if it fits the middle.

    The last feature of a light adapter that has a width for each level is half as large as the middle. diffusers also
    leaves it out.
    """
    *levels, middle = level_shapes(unet, *x.shape[1:3])
    features = seen if len(seen) <= len(levels) or seen[-1].shape[1:] == middle else seen[:-1]
    return {"level_residuals": tuple(weight[:, None, None, None] * feature for feature in features)}
