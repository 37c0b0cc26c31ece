"""The asymmetric KL autoencoder for inpainting: its decoder is larger, and sees the part of the picture that is kept.

    kept picture (1 - mask) x  - conv - conv - halve - halve - halve - features c_0, c_1, ... , c_4
    decoder of latents, before each level and after the last:  h <- mask h + (1 - mask) c

So the kept part reaches the output without the loss of the latents. Without a picture the decoder is a plain one.

| published                        | decoder's widths      | blocks of a level |
|----------------------------------|-----------------------|-------------------|
| asymmetric-autoencoder-kl-x-1-5  | 192, 384, 768, 768    | 4                 |
| asymmetric-autoencoder-kl-x-2    | 256, 512, 1024, 1024  | 6                 |
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.autoencoders import encoder_decoder
from diffusion.models.autoencoders.encoder_decoder import Decoder, Encoder, Options, WithPosterior
from diffusion.models.autoencoders.latent_space import Factor
from diffusion.models.layers.convolutions import conv
from diffusion.models.layers.network_bases import CheckedNetwork

LEVELS = 4  # the sides at which a published decoder sees the kept part: H, H/2, H/4, H/8


def condition_widths(widths: tuple[int, ...]) -> tuple[int, ...]:
    """The channels of the features of a kept picture, from the picture's side on: doubled up to the decoder's last."""
    return (*(min(widths[0] * 2**k, widths[-1]) for k in range(LEVELS)), widths[-1])


class ConditionEncoder(nn.Module):
    """Features of a kept picture: two at its own side, and one at each of three halved sides.

    Attributes:
        widths: channels of the features.
        dtype: compute type.
    """

    widths: tuple[int, ...]
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        features = []
        for i, width in enumerate(self.widths):
            x = nn.relu(x) if i else x
            if i < 2:
                x = conv(width, dtype=self.dtype, name=f"conv_{i}")(x)
            else:
                x = nn.Conv(width, (4, 4), (2, 2), ((1, 1), (1, 1)), dtype=self.dtype, name=f"conv_{i}")(x)
            features.append(x)
        return tuple(features)


class AsymmetricAutoencoderKL(WithPosterior, CheckedNetwork):
    """Pictures to the moments of a Gaussian, and latents to pictures, whose kept part the decoder may see.

        moments = module.apply({"params": params}, x, method="encode")
        x = module.apply({"params": params}, z, method="decode")
        x = module.apply({"params": params}, z, picture, mask, method="decode")

    Attributes:
        widths: channels of each level of the encoder, from the picture's side on.
        layers: residual blocks of a level of the encoder.
        decoder_widths: channels of each level of the decoder. With more levels than the encoder's the decoded picture
            is larger than the encoded one.
        decoder_layers: residual blocks of a level of the decoder, less one.
        latent_channels: number D of the latents' channels.
        picture_channels: number C of the pictures' channels.
        groups: number of groups of the norms.
        scale: scale of the latents, see `latent_space.to_diffusion`.
        shift: shift of the latents, likewise.

    Reference: Zhu et al., "Designing a Better Asymmetric VQGAN for StableDiffusion", 2023, section 3.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    decoder_widths: tuple[int, ...] = (192, 384, 768, 768)
    decoder_layers: int = 3
    latent_channels: int = 4
    picture_channels: int = 3
    groups: int = 32
    scale: Factor = 0.18215
    shift: Factor = 0.0
    ranks = (3,)
    positive = ("latent_channels", "picture_channels")

    def check_fields(self) -> None:
        encoder_decoder.check_levels(self.encoder_options)
        encoder_decoder.check_levels(self.decoder_options)

    def setup(self):
        self.encoder = Encoder(self.encoder_options, 2 * self.latent_channels)
        self.decoder = Decoder(self.decoder_options, self.picture_channels)
        self.condition_encoder = ConditionEncoder(condition_widths(self.decoder_widths), self.dtype)
        self.moments_conv = nn.Conv(2 * self.latent_channels, (1, 1))
        self.latents_conv = nn.Conv(self.latent_channels, (1, 1))

    def _options(self, widths: tuple[int, ...], layers: int) -> Options:
        return Options(widths, layers, self.groups, (), True, self.attention, self.dtype)

    @property
    def encoder_options(self) -> Options:
        """The options of the encoder."""
        return self._options(self.widths, self.layers)

    @property
    def decoder_options(self) -> Options:
        """The options of the decoder."""
        return self._options(self.decoder_widths, self.decoder_layers)

    @property
    def decoded_factor(self) -> int:
        """The factor by which the sides of a decoded picture are larger than the sides of its latent."""
        return 2 ** (len(self.decoder_widths) - 1)

    @property
    def sees_kept(self) -> bool:
        """Whether the features of a kept picture have the channels of the decoder's levels."""
        return self.decoder_widths == condition_widths(self.decoder_widths)[:LEVELS]

    def _posterior(self, x: jax.Array) -> list[jax.Array]:
        return jnp.split(self.moments_conv(self.encoder(x)), 2, axis=-1)

    def decode(self, z: jax.Array, picture: jax.Array | None = None, mask: jax.Array | None = None) -> jax.Array:
        """The picture of a latent.

        Args:
            z: latents [B, h, w, D], as the encoder returns them, neither scaled nor shifted.
            picture: the picture whose part is kept, [B, H, W, C] or [1, H, W, C] for all, in [-1, 1]; None: no part is
                kept.
            mask: 1 where the picture is painted and 0 where it is kept, [B, H, W, 1] or [1, H, W, 1].

        Returns:
            [B, H, W, C], about in [-1, 1] and not clipped, float32.

        Raises:
            ValueError: for another number of channels, a picture without a mask or the reverse, one of another size, or
                a picture where the decoder has other levels than published.
        """
        encoder_decoder.check_latents(z, self.latent_channels)
        self._check_kept(z, picture, mask)
        if picture is None or mask is None:
            return self.decoder(self.latents_conv(z))
        mask = mask.astype(picture.dtype)
        # The later of two features of one shape counts, as in the published code.
        features = {feature.shape[1:]: feature for feature in self.condition_encoder((1 - mask) * picture)}

        def with_kept(h: jax.Array) -> jax.Array:
            every = mask.shape[1] // h.shape[1]
            painted = mask[:, ::every, ::every].astype(h.dtype)
            return h * painted + features[h.shape[1:]] * (1 - painted)

        return self.decoder(self.latents_conv(z), with_kept)

    def _check_kept(self, z: jax.Array, picture: jax.Array | None, mask: jax.Array | None) -> None:
        if picture is None and mask is None:
            return
        if picture is None or mask is None:
            raise ValueError("the decoder sees a kept part only by a picture and its mask; name both or neither")
        if not self.sees_kept:
            raise ValueError(
                f"decoder_widths={self.decoder_widths}: a kept part needs {LEVELS} levels whose channels double up to "
                f"the last, such as {condition_widths(self.decoder_widths)[:LEVELS]}; leave the picture out"
            )
        batch, *sides, _ = z.shape
        height, width = (self.decoded_factor * side for side in sides)
        for name, array, channels in (("picture", picture, self.picture_channels), ("mask", mask, 1)):
            if array.shape[1:] != (height, width, channels) or array.shape[0] not in (1, batch):
                raise ValueError(
                    f"the {name} of latents {z.shape} must have the shape ({batch} or 1, {height}, {width}, "
                    f"{channels}); got {array.shape}"
                )

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """The reconstruction of pictures [B, H, W, C] from the mean of their posterior; with a mask it sees the rest.

        The parameters of every part are made, whether or not there is a mask.
        """
        if mask is None and self.is_initializing():
            self.condition_encoder(x)
        return self.decode(self.encode(x).mean, None if mask is None else x, mask)
