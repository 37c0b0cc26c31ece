"""HunyuanImage 2.1's autoencoder: latents of 1/32 the side, and a shortcut without parameters around each change of it.

    x [B, H, W, C] - Encoder - mean, log variance [B, H/f, W/f, D]
    z [B, h, w, D] - Decoder - x [B, f h, f w, C]

    encoder: conv - [block x layers - fold] x levels - block - attention - block - norm - conv, + means of channels
    decoder: conv, + repeated channels - block - attention - block - [block x (layers + 1) - unfold] x levels - norm -
             conv

A fold brings the pixels of a box of 2 x 2 into the channels, as in HunyuanVideo 1.5's autoencoder.
"""

import flax.linen as nn
import jax

from diffusion.arrays.boxes import depth_to_space, space_to_depth
from diffusion.models.autoencoders import encoder_decoder
from diffusion.models.autoencoders.deep_compression import averaged, repeated
from diffusion.models.autoencoders.encoder_decoder import Options, WithPosterior, shared_options
from diffusion.models.autoencoders.latent_space import Factor
from diffusion.models.layers.convolutions import conv
from diffusion.models.layers.network_bases import CheckedNetwork

BOX = (2, 2)  # pixels that become channels


class Encoder(nn.Module):
    """[B, H, W, C] -> [B, H/f, W/f, outputs]."""

    options: Options
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        widths, dtype = self.options.widths, self.options.dtype
        x = conv(widths[0], dtype=dtype, name="conv_in")(x)
        for i, _ in enumerate(widths):
            x = encoder_decoder.level(self.options, i, self.options.layers)(x)
            if i + 1 < len(widths):
                h = conv(widths[i + 1] // 4, dtype=dtype, name=f"down_{i}")(x)
                x = space_to_depth(h, BOX) + averaged(space_to_depth(x, BOX), widths[i + 1])
        x = encoder_decoder.middle(self.options)(x)
        return encoder_decoder.last(x, self.outputs, self.options) + averaged(x, self.outputs)


class Decoder(nn.Module):
    """[B, h, w, D] -> [B, f h, f w, outputs]."""

    options: Options
    outputs: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        widths, dtype = self.options.widths, self.options.dtype
        x = conv(widths[-1], dtype=dtype, name="conv_in")(z) + repeated(z, widths[-1])
        x = encoder_decoder.middle(self.options)(x)
        for i in reversed(range(len(widths))):
            x = encoder_decoder.level(self.options, i, self.options.layers + 1)(x)
            if i:
                h = conv(4 * widths[i - 1], dtype=dtype, name=f"up_{i}")(x)
                x = depth_to_space(h, BOX) + depth_to_space(repeated(x, 4 * widths[i - 1]), BOX)
        return encoder_decoder.last(x, self.outputs, self.options)


class AutoencoderKLHunyuanImage(WithPosterior, CheckedNetwork):
    """Pictures to the moments of a Gaussian, and latents to pictures.

    Attributes:
        widths: channels of each level, from the picture's side on.
        layers: residual blocks of a level of the encoder; the decoder has one more.
        latent_channels: number D of the latents' channels.
        picture_channels: number C of the pictures' channels.
        groups: number of groups of the norms.
        scale: scale of the latents, see `latent_space.to_diffusion`.
        shift: shift of the latents, likewise.

    Reference: Tencent Hunyuan, "HunyuanImage 2.1", 2025, and its code; Chen et al., "Deep Compression Autoencoder for
    Efficient High-Resolution Diffusion Models", 2024, section 3.2, on the shortcuts.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    layers: int = 2
    latent_channels: int = 64
    picture_channels: int = 3
    groups: int = 32
    scale: Factor = 0.75289
    shift: Factor = 0.0
    ranks = (3,)
    attention_levels = ()
    middle_attention = True
    positive = ("latent_channels", "picture_channels")

    def check_fields(self) -> None:
        encoder_decoder.check_levels(shared_options(self))
        for before, after in zip(self.widths, self.widths[1:]):
            if after % 4 or 4 * before % after:
                raise ValueError(
                    f"widths={self.widths}: {after} must be a multiple of the 4 pixels of a box, and divide 4 x "
                    f"{before}"
                )
        if self.widths[-1] % (2 * self.latent_channels):
            raise ValueError(
                f"latent_channels={self.latent_channels}: twice that must divide the last width, {self.widths[-1]}"
            )

    def setup(self):
        self.encoder = Encoder(shared_options(self), 2 * self.latent_channels)
        self.decoder = Decoder(shared_options(self), self.picture_channels)

    def _picture(self, z: jax.Array) -> jax.Array:
        return self.decoder(z)
