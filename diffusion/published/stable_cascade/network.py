"""The U-Net of Stable Cascade: residual blocks of ConvNeXt, the time, and attention to the prompt, layer after layer.

    x_t -- patches, dense -------------------------------------------- dense, patches -- output
              |                     skips, one after each level           |
           level 0   n layers           -->                    n layers, the first reads the skip
              | norm, / 2                                                 | norm, x 2
           level L-1 n layers           -->                    n layers
              +-----------------------------------------------------------+

    a layer: residual block, scale and shift by the time, attention to the pixels and to the condition

Stage C makes latents of 24 x 24 from a prompt, and stage B the latents of an autoencoder from those. Pictures and
features are channels last.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import pixel_shuffle, pixel_unshuffle
from diffusion.arrays.promotion import promoted
from diffusion.models.image_encoders.convnext import ResponseNorm
from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.conditions import entries
from diffusion.models.layers.cross_attention import CrossAttention
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.scan import rematerialised, scanned

PERIOD = 10_000  # largest number in the sinusoids of the time, and largest period over 2 pi
RESIZINGS = ("convolution", "bilinear", "none")  # how a level's side differs from the finer one's


def time_features(t: jax.Array, size: int) -> jax.Array:
    """Sinusoids of 10,000 t, t in [0, 1], sines first: [B] -> [B, size], float32 or wider.

    The frequencies are rounded as the published code rounds them: their angles are so large that the pictures show it.
    """
    half = size // 2
    exponents = np.arange(half, dtype=np.float32) * np.float32(-math.log(PERIOD) / max(half - 1, 1))
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    t = t.astype(promoted(t.dtype))
    angles = (PERIOD * t)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles), jnp.zeros((len(t), size % 2), t.dtype)], axis=-1)


def resized(x: jax.Array, height: int, width: int) -> jax.Array:
    """Bilinear interpolation that keeps the corners in place: [B, H, W, C] -> [B, height, width, C]."""
    for axis, side in ((1, height), (2, width)):
        if x.shape[axis] != side:
            weights = jnp.asarray(_interpolation(x.shape[axis], side), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(weights, x, (1, axis)), 0, axis)
    return x


def _interpolation(size: int, to: int) -> np.ndarray:
    """The weights [to, size] of pixels whose first and last lie on the first and the last."""
    places = np.arange(to) * ((size - 1) / max(to - 1, 1))
    return np.maximum(1 - np.abs(places[:, None] - np.arange(size)), 0)


class CascadeLayer(nn.Module):
    """A residual block, a scale and a shift by the time, and attention where the level has it.

        h = depthwise convolution of x, normalised, beside the skip
        x <- x + dense(GRN(gelu(dense(h))))
        x <- x (1 + scale) + shift
        x <- x + attention(norm(x) to [condition, norm(x)])

    Attributes:
        heads: number of attention heads; 0 for no attention.
        kernel: side of the depthwise convolution's kernel, odd.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.
    """

    heads: int
    kernel: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self, x: jax.Array, times: jax.Array, tokens: jax.Array, skip: jax.Array | None = None
    ) -> tuple[jax.Array, None]:
        """Args:
            x: features [B, H, W, C].
            times: sinusoids of the n times, [B, n, E].
            tokens: tokens of the condition [B, M, D].
            skip: features of the skip connection [B, H, W, C']; None for no skip.

        Returns:
            (x, None), as a scan expects.
        """
        width = x.shape[-1]
        dense = lambda features, name: nn.Dense(features, dtype=self.dtype, name=name)
        border = [(self.kernel // 2, self.kernel // 2)] * 2
        sides = (self.kernel, self.kernel)
        depthwise = nn.Conv(width, sides, padding=border, feature_group_count=width, dtype=self.dtype, name="depthwise")
        h = layer_norm(depthwise(x))
        h = h if skip is None else jnp.concatenate([h, skip], axis=-1)
        h = nn.gelu(dense(4 * width, "hidden")(h), approximate=False)
        x = x + dense(width, "out")(ResponseNorm(name="response")(h))

        changes = [dense(2 * width, f"time_{i}")(times[:, i]) for i in range(times.shape[1])]
        scale, shift = jnp.split(functools.reduce(jnp.add, changes)[:, None, None], 2, axis=-1)
        x = x * (1 + scale) + shift
        if self.heads:
            pixels = layer_norm(x).reshape(len(x), -1, width)
            context = jnp.concatenate([dense(width, "context")(nn.silu(tokens)), pixels], axis=1)
            options = {"bias": True, "attention": self.attention, "dtype": self.dtype, "name": "attention"}
            attended = CrossAttention(self.heads, width // self.heads, **options)(pixels, context)
            x = x + attended.reshape(x.shape)
        return layout.split(x, "batch", None, None, None), None


class StableCascade(Backbone):
    """The U-Net of both stages of Stable Cascade: `apply(variables, x, t, condition)` is a `Network`.

    Its clock is t in [0, 1], and its output eps. The defaults are those of stage C; stage B reads stage C's latents as
    "coarse", and only the pooled prompt.

    Attributes:
        channels: C of the latents.
        patch: side of a patch in pixels of the latents, 1 or 2.
        widths: channels of each level, the finest first.
        layers: number of layers of each level on the way down.
        up_layers: the same on the way up, in the order of `widths`.
        repeats: number of times that each level's layers run on the way down, with a dense layer between.
        up_repeats: the same on the way up.
        heads: number of attention heads of each level; 0 for a level without attention.
        resizing: how the side changes before each level but the finest: "convolution" and "bilinear" halve it, "none"
            keeps it.
        condition_width: number D of features of the condition's tokens.
        pooled_width: number P of features of the pooled prompt.
        tokens: number of tokens that the pooled prompt becomes, and each embedding of an image.
        text_width: number E of features of a token of the prompt; 0 for a network that reads only the pooled prompt.
        image_width: number I of features of an image's embedding; above 0 where `text_width` is.
        coarse_channels: channels of the latents of the stage before; 0 for the first stage.
        pixel_channels: channels of a small picture beside them, which is black in all published use; 0: none.
        times: number of times in the embedding; those after the first are 0 in all published use.
        time_width: number of sinusoids of a time.
        kernel: side of the depthwise convolutions, odd.

    Reference: Pernias et al., "Würstchen: An Efficient Architecture for Large-Scale Text-to-Image Diffusion Models",
    2023; the code of Stable Cascade, 2024.
    """

    channels: int = 16
    patch: int = 1
    widths: tuple[int, ...] = (2048, 2048)
    layers: tuple[int, ...] = (8, 24)
    up_layers: tuple[int, ...] = (8, 24)
    repeats: tuple[int, ...] = (1, 1)
    up_repeats: tuple[int, ...] = (1, 1)
    heads: tuple[int, ...] = (32, 32)
    resizing: tuple[str, ...] = ("none",)
    condition_width: int = 2048
    pooled_width: int = 1280
    tokens: int = 4
    text_width: int = 1280
    image_width: int = 768
    coarse_channels: int = 0
    pixel_channels: int = 0
    times: int = 3
    time_width: int = 64
    kernel: int = 3
    ranks = (3,)
    positive = ("channels", "patch", "condition_width", "pooled_width", "tokens", "times", "time_width", "kernel")

    def check_fields(self) -> None:
        levels = len(self.widths)
        for field in ("layers", "up_layers", "repeats", "up_repeats", "heads"):
            least = 0 if field == "heads" else 1
            if len(getattr(self, field)) != levels or min(getattr(self, field), default=0) < least:
                raise ValueError(f"{field}={getattr(self, field)} must be {levels} numbers of at least {least}")
        if len(self.resizing) != levels - 1 or not {*self.resizing} <= {*RESIZINGS}:
            raise ValueError(f"resizing={self.resizing} must be {levels - 1} of {', '.join(RESIZINGS)}")
        for width, heads in zip(self.widths, self.heads):
            if heads and width % heads:
                raise ValueError(f"heads={heads} does not divide {width}, the width of their level")
        if self.patch not in (1, 2) or self.kernel % 2 == 0:
            raise ValueError(f"patch={self.patch} must be 1 or 2, and kernel={self.kernel} odd")
        if (self.text_width > 0) != (self.image_width > 0):
            raise ValueError(
                f"text_width={self.text_width} and image_width={self.image_width} must both be positive, or both 0"
            )

    @property
    def feature_blocks(self) -> int:
        """Number of blocks whose features a call can return: the layers, as often as they run."""
        both = (self.layers, self.repeats), (self.up_layers, self.up_repeats)
        return sum(number * turns for way in both for number, turns in zip(*way))

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`; a block is one layer.

        Args:
            x: noised latents [B, H, W, C]; H and W multiples of the patch.
            t: times in [0, 1], [B] or [], float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "pooled": [B, P], of the prompt. "text": [B, M, E], its tokens, if `text_width`.
                "coarse": [B, h, w, coarse_channels], latents of the stage before, if `coarse_channels`.
                "image": [B, N, image_width], CLIP's projected features of N images in the prompt, if `image_width`;
                without it one of zeros, as in training without images.
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C].
        """
        required = ("pooled",) + ("text",) * (self.text_width > 0) + ("coarse",) * (self.coarse_channels > 0)
        inputs = entries(condition, required, ("image",) * (self.image_width > 0))
        network_checks.latents(self, x, t, self.channels)
        self._check(x, inputs)
        t = jnp.broadcast_to(t, x.shape[:1])
        embedded = [time_features(time, self.time_width) for time in (t, *[jnp.zeros_like(t)] * (self.times - 1))]
        shared = jnp.stack(embedded, axis=1).astype(self.dtype), self._tokens(inputs)

        h = pixel_unshuffle(x, (2, 2)) if self.patch == 2 else x
        h = layer_norm(self._dense(self.widths[0], "patch_embedding")(h))
        if self.coarse_channels:
            h = h + self._picture(resized(inputs["coarse"], *h.shape[1:3]), "coarse")
        if self.pixel_channels:
            h = h + self._picture(jnp.zeros((1, 1, 1, self.pixel_channels), h.dtype), "pixels")
        recorded, skips = Features(features, self.feature_blocks), []
        for i in range(len(self.widths)):
            h = self._smaller(layer_norm(h), i) if i else h
            h = self._level(h, i, "down", shared, recorded)
            skips.append(h)
        for i in reversed(range(len(self.widths))):
            h = self._level(h, i, "up", shared, recorded, skips[i] if i < len(self.widths) - 1 else None)
            h = self._larger(layer_norm(h), i) if i else h
        h = self._dense(self.patch**2 * self.channels, "final")(layer_norm(h)).astype(jnp.float32)
        return recorded.beside(pixel_shuffle(h, (2, 2)) if self.patch == 2 else h)

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, name=name)

    def _picture(self, picture: jax.Array, name: str) -> jax.Array:
        """A picture of the condition as features of the finest level."""
        h = nn.gelu(self._dense(4 * self.widths[0], f"{name}_hidden")(picture), approximate=False)
        return layer_norm(self._dense(self.widths[0], f"{name}_out")(h))

    def _tokens(self, inputs: Entries) -> jax.Array:
        """The condition's tokens [B, M, D]: the prompt's, the pooled prompt's, and the tokens of the images, if any."""
        pooled = inputs["pooled"]
        several = lambda entry, name: self._dense(self.tokens * self.condition_width, name)(entry).reshape(
            len(pooled), -1, self.condition_width
        )
        parts = [several(pooled, "pooled")]
        if self.text_width:
            image = inputs["image"]
            if image is None:
                image = jnp.zeros((len(pooled), 1, self.image_width), pooled.dtype)
            parts = [self._dense(self.condition_width, "text")(inputs["text"]), *parts, several(image, "image")]
        return layer_norm(jnp.concatenate(parts, axis=1))

    def _level(
        self, h: jax.Array, level: int, way: str, shared: tuple, recorded: Features, skip: jax.Array | None = None
    ) -> jax.Array:
        """A level's layers, several times with the same parameters; the first of them reads the skip."""
        layers, turns = (self.layers, self.repeats) if way == "down" else (self.up_layers, self.up_repeats)
        name, fields = f"{way}_{level}", (self.heads[level], self.kernel, self.attention, self.dtype)
        first, number, stack = None, layers[level], None
        requested = recorded.among(turns[level] * number)
        returned = {(block - 1) % number + 1 - (skip is not None) for block in requested} - {0}
        if skip is not None:
            first = rematerialised(CascadeLayer, self.remat)(*fields, name=f"{name}_first")
            number -= 1
        if number:
            axes, returned = (nn.broadcast, nn.broadcast), sorted(returned)
            stack = scanned(CascadeLayer, number, self.remat, self.is_initializing(), axes, kept=returned)(
                *fields, name=name
            )
        for turn in range(turns[level]):
            h = self._dense(self.widths[level], f"{name}_repeat_{turn}")(h) if turn else h
            if first is not None and skip is not None:
                h, _ = first(resized(h, *skip.shape[1:3]), *shared, skip)
                recorded.block(h)
            if stack is not None:
                h, states = stack(h, *shared)
                among = recorded.among(number)
                recorded.stack(number, [state for layer, state in zip(returned, states or ()) if layer in among])
        return h

    def _smaller(self, h: jax.Array, level: int) -> jax.Array:
        width, how, name = self.widths[level], self.resizing[level - 1], f"down_{level}_resize"
        if how == "convolution":
            return nn.Conv(width, (2, 2), (2, 2), "VALID", dtype=self.dtype, name=name)(h)
        h = self._dense(width, name)(h)
        return resized(h, h.shape[1] // 2, h.shape[2] // 2) if how == "bilinear" else h

    def _larger(self, h: jax.Array, level: int) -> jax.Array:
        width, how, name = self.widths[level - 1], self.resizing[level - 1], f"up_{level}_resize"
        if how == "convolution":
            return nn.ConvTranspose(width, (2, 2), (2, 2), dtype=self.dtype, name=name)(h)
        h = resized(h, 2 * h.shape[1], 2 * h.shape[2]) if how == "bilinear" else h
        return self._dense(width, name)(h)

    def _check(self, x: jax.Array, inputs: Entries) -> None:
        """Refuses sides that cannot be halved, and entries of the condition of another shape."""
        batch, height, width, _ = x.shape
        least = self.patch * 2 ** sum(how != "none" for how in self.resizing)
        if height % self.patch or width % self.patch or min(height, width) < least:
            raise ValueError(
                f"height {height} and width {width} must be at least {least}, and multiples of patch={self.patch}"
            )
        axes_and_last = {
            "pooled": (2, self.pooled_width),
            "text": (3, self.text_width),
            "coarse": (4, self.coarse_channels),
            "image": (3, self.image_width),
        }
        for name, entry in inputs.items():
            if entry is None:
                continue
            axes, last = axes_and_last[name]
            if jnp.ndim(entry) != axes or (entry.shape[0], entry.shape[-1]) != (batch, last):
                raise ValueError(
                    f"the condition's {name!r} must have {axes} axes, the first of {batch} and the last of {last}; got "
                    f"shape {jnp.shape(entry)}"
                )


MODELS = {"stable_cascade": StableCascade}  # by its name in configs
