"""The KL autoencoder of latent diffusion: pictures to a small Gaussian latent and back (Rombach et al., 2022).

    x [B, H, W, 3] - Encoder - (conv 1x1) - mean, log variance [B, H/f, W/f, D]
    z [B, H/f, W/f, D] - (conv 1x1) - Decoder - x [B, H, W, 3]

| published                    | f | D  | 1x1 convs | scale   | shift  |
|------------------------------|---|----|-----------|---------|--------|
| Stable Diffusion 1.x and 2.x | 8 | 4  | yes       | 0.18215 | 0      |
| Stable Diffusion XL          | 8 | 4  | yes       | 0.13025 | 0      |
| Stable Diffusion 3           | 8 | 16 | no        | 1.5305  | 0.0609 |
| FLUX.1                       | 8 | 16 | no        | 0.3611  | 0.1159 |
| FLUX.2                       | 16 | 128 | yes     | of each | of each |

FLUX.2 has 32 channels at f = 8, and `packed` joins patches of 2 x 2 of these to the values of its latents.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import pixel_shuffle, pixel_unshuffle
from diffusion.models.autoencoders import encoder_decoder, latent_space
from diffusion.models.autoencoders.encoder_decoder import Decoder, Encoder, WithPosterior, shared_options
from diffusion.models.autoencoders.latent_space import Factor, Moments
from diffusion.models.layers.network_bases import CheckedNetwork


class AutoencoderKL(WithPosterior, CheckedNetwork):
    """Pictures to the moments of a Gaussian, and latents to pictures.

    A clip [B, F, H, W, C] is encoded and decoded frame by frame, as models of clips use an autoencoder of pictures.

    Attributes:
        widths: channels of each level, from the picture's side on.
        layers: residual blocks of a level of the encoder; the decoder has one more.
        latent_channels: number D of the latents' channels, a multiple of `packed`^2.
        picture_channels: number C of the pictures' channels.
        groups: number of groups of the norms.
        attention_levels: levels, 0 at the picture's side, that have attention after each block.
        middle_attention: whether there is attention between the two blocks of the smallest side.
        quantization_convs: whether there is a 1x1 convolution after the encoder, and one before the decoder.
        decoder_conv: whether there is a 1x1 convolution before the decoder; None: as `quantization_convs`.
        decoded_channels: number of channels of the decoded pictures; None: C.
        scale: scale of the latents, see `latent_space.to_diffusion`; one number or one for each channel.
        shift: shift of the latents, likewise.
        input_range: range of the pixels inside the network; ours are in [-1, 1], and `encode` and `decode` convert
            them.
        packed: side p of the patches that become one value of the latent, channel by channel; f is p times as large.

    Reference: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, section 3.1.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    latent_channels: int = 4
    picture_channels: int = 3
    groups: int = 32
    attention_levels: tuple[int, ...] = ()
    middle_attention: bool = True
    quantization_convs: bool = True
    scale: Factor = 0.18215
    shift: Factor = 0.0
    input_range: tuple[float, float] = (-1.0, 1.0)
    decoder_conv: bool | None = None
    decoded_channels: int | None = None
    packed: int = 1
    ranks = (3, 4)

    def check_fields(self) -> None:
        encoder_decoder.check_options(self)
        if self.packed < 1 or self.latent_channels % self.packed**2:
            raise ValueError(
                f"packed={self.packed}: latent_channels={self.latent_channels} must be a multiple of packed^2, the "
                "positions in a patch"
            )
        for field in ("scale", "shift"):
            factor = getattr(self, field)
            if isinstance(factor, tuple) and len(factor) != self.latent_channels:
                raise ValueError(
                    f"{field} has {len(factor)} numbers, but the latents have {self.latent_channels} channels"
                )

    def setup(self):
        inner = self.latent_channels // self.packed**2
        self.encoder = Encoder(shared_options(self), 2 * inner)
        self.decoder = Decoder(shared_options(self), self.decoded_channels or self.picture_channels)
        behind, before = self.convs
        if behind:
            self.moments_conv = nn.Conv(2 * inner, (1, 1))
        if before:
            self.latents_conv = nn.Conv(inner, (1, 1))

    @property
    def convs(self) -> tuple[bool, bool]:
        """Whether there is a 1x1 convolution after the encoder, and before the decoder."""
        return self.quantization_convs, self.quantization_convs if self.decoder_conv is None else self.decoder_conv

    @property
    def factor(self) -> int:
        """f, by which the sides of a latent are smaller than the picture's."""
        return self.packed * 2 ** (len(self.widths) - 1)

    def encode(self, x: jax.Array) -> Moments:
        """The posterior of pictures, as in `WithPosterior`, or of the frames of clips [B, F, H, W, C]."""
        if x.ndim == 5:
            moments = self.encode(x.reshape(-1, *x.shape[2:]))
            return Moments(*(part.reshape(*x.shape[:2], *part.shape[1:]) for part in moments))
        return super().encode(x)

    def decode(self, z: jax.Array) -> jax.Array:
        """The pictures of latents, as in `WithPosterior`, of `decoded_channels`; or clips, of latents of frames."""
        if z.ndim == 5:
            pictures = self.decode(z.reshape(-1, *z.shape[2:]))
            return pictures.reshape(*z.shape[:2], *pictures.shape[1:])
        return super().decode(z)

    def _posterior(self, x: jax.Array) -> tuple[jax.Array, ...]:
        h = self.encoder(latent_space.to_range(x, self.input_range))
        h = self.moments_conv(h) if self.quantization_convs else h
        return tuple(pixel_unshuffle(part, (self.packed, self.packed)) for part in jnp.split(h, 2, axis=-1))

    def _picture(self, z: jax.Array) -> jax.Array:
        z = pixel_shuffle(z, (self.packed, self.packed))
        z = self.latents_conv(z) if self.convs[1] else z
        return latent_space.from_range(self.decoder(z), self.input_range)
