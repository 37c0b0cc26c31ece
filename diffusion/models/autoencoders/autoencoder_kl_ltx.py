"""LTX-Video's autoencoder: latents 32 times smaller in each direction and 8 times shorter, of 128 channels.

    x [B, 1 + 8 n, H, W, C] - patches 4 x 4 - Encoder - mean [B, 1 + n, H/32, W/32, D], log variance of each place
    z [B, 1 + n, h, w, D]   - Decoder - patches 4 x 4 - x [B, 1 + 8 n, 32 h, 32 w, C]

    encoder: conv - [block x layers - halve] x levels - block x layers - norm - conv
    decoder: conv - block x layers - [double - block x layers] x levels - norm - conv

The encoder sees no later frame; a convolution of the decoder sees one to each side, so that clips are coded in parts
(`clip_parts.lagging`). The decoder of 0.9.1 and later is
also the last step of the denoiser: it receives the time of the noise that its latent still has.

| published | halve                                                 | decoder's time | noise in the decoder |
|-----------|-------------------------------------------------------|----------------|----------------------|
| 0.9.0     | conv, conv, conv                                      | no             | no                   |
| 0.9.1     | conv, conv, conv                                      | yes            | yes                  |
| 0.9.5 ..  | spatial, temporal, spatiotemporal, spatiotemporal     | yes            | no                   |
| LTX-2     | spatial, temporal, spatiotemporal, spatiotemporal     | no             | no                   |

Frames are padded with zeros, in LTX-2's decoder with mirrored pixels. In the decoder of LTX-2.3 one level doubles only
the sides, and one only the frames (`doubling`).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import pixel_shuffle, pixel_unshuffle
from diffusion.models.autoencoders.causal_layers import STREAM
from diffusion.models.autoencoders.clip_parts import lagging
from diffusion.models.autoencoders.column_patches import column_patches, column_pixels
from diffusion.models.autoencoders.edge_convolution import EdgeConv, Place, delayed
from diffusion.models.autoencoders.latent_space import Factor
from diffusion.models.autoencoders.video_autoencoder import VideoAutoencoder, check_latents
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.norms import rms_norm
from diffusion.models.layers.pixart_block import table

EPSILON = 1e-8  # epsilon of the norms
NOISE = "noise"
"""The stream of random numbers that the decoder of 0.9.1 adds, `rngs={"noise": key}`; without it their mean, zero."""
STRIDES = {"conv": (2, 2, 2), "spatial": (1, 2, 2), "temporal": (2, 1, 1), "spatiotemporal": (2, 2, 2), "": (1, 1, 1)}


class ResidualBlock(nn.Module):
    """x + conv(f(h)), h = conv(f(x)), f(x) = silu(rms_norm(x) (1 + scale) + shift).

    Attributes:
        features: number of channels of the output; the input goes through a norm and a convolution of one pixel where
            it has others.
        causal: whether the convolutions are causal.
        noise: whether noise, one number for each pixel of a frame, is added after each of the two convolutions, times a
            learned scale for each channel.
        timed: whether the call has a condition [B, 4, features], the two shifts and scales.
        dtype: compute type.
        reflects: whether the convolutions mirror pixels at the edge.

    With a `place` the call takes a chunk, and returns the chunk that begins two frames earlier.
    """

    features: int
    causal: bool
    noise: bool = False
    timed: bool = False
    dtype: str = "float32"
    reflects: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array | None = None, place: Place | None = None) -> jax.Array:
        shift = scale = (0.0, 0.0)
        if self.timed and c is not None:
            vectors = c + self.param("table", table, (4, self.features)).astype(c.dtype)
            vectors = [vectors[:, i, None, None, None] for i in range(4)]
            shift, scale = vectors[::2], vectors[1::2]
        h = x
        for i in range(2):
            h = nn.silu(rms_norm(h, EPSILON) * (1 + scale[i]) + shift[i])
            earlier = place and place.earlier(i)
            how: Any = {"causal": self.causal, "reflects": self.reflects, "dtype": self.dtype}
            h = EdgeConv(self.features, **how, name=f"conv_{i + 1}")(h, earlier)
            if self.noise:
                size = self.param(f"noise_{i + 1}", nn.initializers.zeros_init(), (self.features,)).astype(h.dtype)
                if self.has_rng(NOISE):
                    h = h + size * jax.random.normal(self.make_rng(NOISE), (*h.shape[2:4], 1), h.dtype)
        x = x if place is None else delayed(self, x, 2)
        if x.shape[-1] != self.features:
            x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm_shortcut")(x)
            x = EdgeConv(self.features, (1, 1, 1), dtype=self.dtype, name="shortcut")(x)
        return x + h


class Halve(nn.Module):
    """pixel_unshuffle(conv(x)) + means of groups of pixel_unshuffle(x); halved time repeats the first frame.

    `begins` of the call says whether its frames begin the video.

    Attributes:
        features: number of channels of the output.
        stride: stride of frames, rows and columns.
        dtype: compute type.
    """

    features: int
    stride: tuple[int, int, int]
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, begins: bool = True) -> jax.Array:
        x = jnp.concatenate([x[:, : self.stride[0] - 1], x], axis=1) if begins else x
        h = EdgeConv(self.features // math.prod(self.stride), dtype=self.dtype, name="conv")(x)
        same = pixel_unshuffle(x, self.stride)
        return pixel_unshuffle(h, self.stride) + same.reshape(*same.shape[:-1], self.features, -1).mean(-1)


class Double(nn.Module):
    """pixel_shuffle(conv(x)), plus pixel_shuffle(x) if `residual`; without the first frame where time doubles.

    Attributes:
        features: number of channels of the output.
        residual: whether the shuffled input is added, its channels repeated.
        dtype: compute type.
        reflects: whether the convolution mirrors pixels at the edge.
        stride: factors of frames, rows and columns, 1 or 2.

    With a `place` the call takes a chunk, and puts out the chunk that `_doubled` gives.
    """

    features: int
    residual: bool
    dtype: str
    reflects: bool
    stride: tuple[int, int, int] = (2, 2, 2)

    @nn.compact
    def __call__(self, x: jax.Array, place: Place | None = None) -> jax.Array:
        features = math.prod(self.stride) * self.features
        conv = EdgeConv(features, causal=False, reflects=self.reflects, dtype=self.dtype, name="conv")
        h = pixel_shuffle(conv(x, place), self.stride)
        if self.residual:
            x = x if place is None else delayed(self, x, 1)
            same = pixel_shuffle(x, self.stride)
            h = h + jnp.concatenate([same] * (self.features // same.shape[-1]), axis=-1)
        return h[:, self.stride[0] - 1 :] if place is None else h


def _doubled(place: Place, frames: int) -> Place:
    """The place of the chunk that `Double` makes: it begins a frame earlier, without the video's first frame.

    Args:
        place: place of the chunk that it takes.
        frames: factor of the frames, 1 or 2.
    """
    return Place(2 * (place.start - 1) - 1, 2 * place.frames - 1) if frames == 2 else place.earlier(1)


class Encoder(nn.Module):
    """[B, 1 + f_t n, H, W, C] -> [B, 1 + n, H/f, W/f, outputs]; fields as `AutoencoderKLLTX`."""

    widths: tuple[int, ...]
    layers: tuple[int, ...]
    halve: tuple[str, ...]
    outputs: int
    patch: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        begins = not self.variables.get(STREAM)
        block = lambda features, name: ResidualBlock(features, True, dtype=self.dtype, name=name)
        x = EdgeConv(self.widths[0], dtype=self.dtype, name="conv_in")(column_patches(x, self.patch))
        for i, how in enumerate(self.halve):
            width, wider = self.widths[i : i + 2]
            for j in range(self.layers[i]):
                x = block(width, f"level_{i}_block_{j}")(x)
            if how == "conv":
                x = EdgeConv(width, stride=(2, 2, 2), dtype=self.dtype, name=f"halve_{i}")(x)
            elif how:
                x = Halve(wider, STRIDES[how], self.dtype, name=f"halve_{i}")(x, begins)
            if x.shape[-1] != wider:
                x = block(wider, f"widen_{i}")(x)
        for j in range(self.layers[-1]):
            x = block(self.widths[-1], f"middle_block_{j}")(x)
        # In float32: bfloat16 would round the output to 8 bits.
        return EdgeConv(self.outputs, name="conv_out")(nn.silu(rms_norm(x, EPSILON)))


class Decoder(nn.Module):
    """[B, 1 + n, h, w, D] -> [B, 1 + f_t n, f h, f w, outputs]; fields as `AutoencoderKLLTX`."""

    widths: tuple[int, ...]
    layers: tuple[int, ...]
    double: tuple[bool, ...]
    narrowing: tuple[int, ...]
    residual: tuple[bool, ...]
    noise: tuple[bool, ...]
    timed: bool
    outputs: int
    patch: int
    dtype: str
    reflects: bool
    strides: tuple[tuple[int, int, int], ...]

    @nn.compact
    def __call__(self, z: jax.Array, t: jax.Array | None, place: Place | None = None) -> jax.Array:
        mirrored: Any = {"reflects": self.reflects}
        clock = self.param("clock", nn.initializers.constant(1000.0), ()) if self.timed else 1.0

        def vectors(count: int, width: int, name: str) -> jax.Array | None:
            """Vectors of the time, [B, count, width]."""
            if t is None:
                return None
            return TimestepEmbedding(count * width, self.dtype, name=name)(clock * t).reshape(len(z), count, width)

        def blocks(x: jax.Array, level: int, name: str, place: Place | None) -> jax.Array:
            c = vectors(4, x.shape[-1], f"{name}_time")
            for j in range(self.layers[level]):
                fields = (x.shape[-1], False, self.noise[level], self.timed, self.dtype)
                x = ResidualBlock(*fields, **mirrored, name=f"{name}_block_{j}")(x, c, place and place.earlier(2 * j))
            return x

        x = EdgeConv(self.widths[-1], causal=False, **mirrored, dtype=self.dtype, name="conv_in")(z, place)
        place = place and place.earlier(1)
        x = blocks(x, -1, "middle", place)
        place = place and place.earlier(2 * self.layers[-1])
        for i in reversed(range(len(self.widths))):
            width = self.widths[i] // self.narrowing[i]
            if self.narrowing[i] == 1 and x.shape[-1] != width:
                narrow = ResidualBlock(width, False, self.noise[i], dtype=self.dtype, **mirrored, name=f"narrow_{i}")
                x = narrow(x, place=place)
                place = place and place.earlier(2)
            if self.double[i]:
                fields = (width, self.residual[i], self.dtype, self.reflects, self.strides[i])
                x = Double(*fields, name=f"double_{i}")(x, place)
                place = place and _doubled(place, self.strides[i][0])
            x = blocks(x, i, f"level_{i}", place)
            place = place and place.earlier(2 * self.layers[i])
        x = rms_norm(x, EPSILON)
        last = vectors(2, x.shape[-1], "final_time")
        if last is not None:
            last = last + self.param("final_table", table, last.shape[1:]).astype(last.dtype)
            x = x * (1 + last[:, 1, None, None, None]) + last[:, 0, None, None, None]
        x = EdgeConv(self.outputs * self.patch**2, causal=False, **mirrored, name="conv_out")(nn.silu(x), place)
        return column_pixels(x, self.patch)


class AutoencoderKLLTX(VideoAutoencoder):
    """Videos to the moments of a Gaussian, and latents to videos, as LTX-Video has it.

    Attributes:
        widths: channels of each level of the encoder, from the picture's side on, and of its middle.
        layers: residual blocks of each level of the encoder, and of its middle.
        halve: kind of halving at the end of each level: "conv", "spatial", "temporal" or "spatiotemporal"; "" for none.
        decoder_widths: channels of each level of the decoder before they are divided, from the picture's side on.
        decoder_layers: residual blocks of each level of the decoder, and of its middle.
        double: whether a level of the decoder begins with twice the frames and sides.
        narrowing: factor by which a level of the decoder divides its channels as it doubles the sides.
        residual: whether the input is added where sides double.
        noise: whether the blocks of each level of the decoder, and of its middle, add noise.
        timed: whether the decoder receives a time.
        latent_channels: number D of the latents' channels.
        picture_channels: number C of the pictures' channels.
        patch: side of the patches that are the outermost channels.
        scale: scale of the latents, see `latent_space.to_diffusion`; one number or one for each channel.
        shift: shift of the latents, likewise.
        dtype: compute type, "float32" or "bfloat16"; outputs are float32.
        reflects: whether the decoder mirrors pixels at the edge of a frame; its latents have at least two on a side.
        doubling: axes that each level of the decoder doubles: "spatiotemporal", "temporal" or "spatial"; () for the
            first of these at all levels.

    Raises:
        ValueError: at construction, for a field out of range or an unknown name.

    Reference: HaCohen et al., "LTX-Video: Realtime Video Latent Diffusion", 2024, section on the video VAE.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512, 512)
    layers: tuple[int, ...] = (4, 3, 3, 3, 4)
    halve: tuple[str, ...] = ("conv", "conv", "conv", "")
    decoder_widths: tuple[int, ...] = (128, 256, 512, 512)
    decoder_layers: tuple[int, ...] = (4, 3, 3, 3, 4)
    double: tuple[bool, ...] = (True, True, True, False)
    narrowing: tuple[int, ...] = (1, 1, 1, 1)
    residual: tuple[bool, ...] = (False, False, False, False)
    noise: tuple[bool, ...] = (False, False, False, False, False)
    timed: bool = False
    latent_channels: int = 128
    picture_channels: int = 3
    patch: int = 4
    scale: Factor = 1.0
    shift: Factor = 0.0
    dtype: str = "float32"
    reflects: bool = False
    doubling: tuple[str, ...] = ()
    in_parts = staticmethod(lagging)

    def __post_init__(self):
        look_up(dict.fromkeys(("float32", "bfloat16")), self.dtype, "dtype")
        for how in self.halve:
            look_up(STRIDES, how, "halve")
        for how in self.doubling:
            look_up(dict.fromkeys(("spatiotemporal", "temporal", "spatial")), how, "doubling")
        numbers = (*self.widths, *self.decoder_widths, *self.narrowing)
        if min(self.latent_channels, self.picture_channels, self.patch, *numbers) < 1:
            raise ValueError("widths, channels, narrowing and patch of an autoencoder must be positive")
        levels, lower = len(self.halve), len(self.decoder_widths)
        for field, length in (
            ("widths", levels + 1),
            ("layers", levels + 1),
            ("decoder_layers", lower + 1),
            ("double", lower),
            ("narrowing", lower),
            ("residual", lower),
            ("noise", lower + 1),
            *([("doubling", lower)] if self.doubling else ()),
        ):
            if len(getattr(self, field)) != length:
                raise ValueError(f"{field}={getattr(self, field)} must have {length} entries here, one for each level")
        self._check_encoder()
        self._check_decoder()
        super().__post_init__()

    def _check_encoder(self) -> None:
        for i, how in enumerate(self.halve):
            folded = self.widths[i] * math.prod(STRIDES[how])
            if how not in ("", "conv") and (
                folded % self.widths[i + 1] or self.widths[i + 1] % math.prod(STRIDES[how])
            ):
                raise ValueError(
                    f"widths={self.widths}: level {i} folds into {folded} channels, which cannot be grouped into "
                    f"{self.widths[i + 1]}"
                )

    def _check_decoder(self) -> None:
        entering = self.decoder_widths[-1]
        for i in reversed(range(len(self.decoder_widths))):
            width, factor = self.decoder_widths[i], self.narrowing[i]
            if factor > 1 and not (self.double[i] and entering == width and width % factor == 0):
                raise ValueError(
                    f"decoder_widths={self.decoder_widths}: level {i} divides {entering} channels by "
                    f"narrowing={factor} while it doubles the side. Valid: a level that doubles, with a width of "
                    f"{entering} that narrowing divides"
                )
            if factor == 1 and self.timed and entering != width:
                raise ValueError(
                    f"decoder_widths={self.decoder_widths}: a decoder that receives the time can change its channels "
                    "only by narrowing"
                )
            parts = math.prod(self.strides[i])
            if self.residual[i] and self.double[i] and (width % parts or parts % factor):
                raise ValueError(
                    f"decoder_widths={self.decoder_widths}: the width of a level that doubles with a residual must be "
                    f"a multiple of {parts}"
                )
            entering = width // factor

    @property
    def strides(self) -> tuple[tuple[int, int, int], ...]:
        """The factors of frames, rows and columns by which each level of the decoder doubles."""
        return tuple(STRIDES[how] for how in self.doubling or ("spatiotemporal",) * len(self.decoder_widths))

    @property
    def factor(self) -> int:
        """f, see `VideoAutoencoder`."""
        return self.patch * math.prod(STRIDES[how][1] for how in self.halve)

    @property
    def time_factor(self) -> int:
        """f_t, see `VideoAutoencoder`."""
        return math.prod(STRIDES[how][0] for how in self.halve)

    @property
    def lag(self) -> int:
        """Frames that the decoder's output begins late where a clip comes in chunks, see `clip_parts.lagging`."""
        place = Place(-1 - 2 * self.decoder_layers[-1], 0)
        entering = self.decoder_widths[-1]
        for i in reversed(range(len(self.decoder_widths))):
            width = self.decoder_widths[i] // self.narrowing[i]
            place = place.earlier(2 if self.narrowing[i] == 1 and entering != width else 0)
            place = _doubled(place, self.strides[i][0]) if self.double[i] else place
            place = place.earlier(2 * self.decoder_layers[i])
            entering = width
        return 1 - int(place.start)

    def setup(self):
        self.encoder = Encoder(self.widths, self.layers, self.halve, self.latent_channels + 1, self.patch, self.dtype)
        self.decoder = Decoder(
            self.decoder_widths,
            self.decoder_layers,
            self.double,
            self.narrowing,
            self.residual,
            self.noise,
            self.timed,
            self.picture_channels,
            self.patch,
            self.dtype,
            self.reflects,
            self.strides,
        )

    def _posterior(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """All channels share the log variance."""
        moments = self.encoder(x)
        return moments[..., :-1], moments[..., -1:]

    def decode(self, z: jax.Array, t: jax.typing.ArrayLike | None = None, place: Place | None = None) -> jax.Array:
        """The video of a latent.

        Args:
            z: [B, 1 + n, h, w, D], as the encoder returns it, neither scaled nor shifted.
            t: time in [0, 1] of the noise that the latent has, [] or [B], for a timed decoder; None: 0.
            place: position in a stream of n frames that are a chunk of it; None: z is the clip's latent.

        Returns:
            [B, 1 + f_t n, f h, f w, C], about in [-1, 1] and not clipped, float32. A chunk gives f_t n frames, which
            begin `lag` frames before its own.

        Raises:
            ValueError: for another rank or number of channels, fewer than two latents on a side of a decoder that
                mirrors, and a time that the decoder does not receive.
        """
        check_latents(self, z)
        if self.reflects and min(z.shape[2:4]) < 2:
            raise ValueError(f"this decoder mirrors pixels at the edge: latents must have two on a side; got {z.shape}")
        if t is not None and not self.timed:
            raise ValueError("this autoencoder's decoder receives no time. Valid: t = None")
        time = jnp.broadcast_to(jnp.asarray(0.0 if t is None else t, jnp.float32), z.shape[:1]) if self.timed else None
        return self.decoder(z, time, place)
