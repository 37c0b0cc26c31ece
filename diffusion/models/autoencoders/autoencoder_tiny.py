"""TAESD, a tiny autoencoder that imitates a larger one: pictures to the latents of a diffusion model, and back.

    encoder: conv - [block x n_i - (halve)] x levels - conv
    decoder: 3 tanh(z / 3) - conv - relu - [block x n_i - (double, conv)] x levels - conv

    block: relu(x + conv(relu(conv(relu(conv(x))))))

It has no norms and no attention. For SD it has 2.4 M parameters, 34 times fewer than the original.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.autoencoders.encoder_decoder import WithoutPosterior
from diffusion.models.autoencoders.latent_space import Factor
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.convolutions import conv, upsample

SPREAD = 3.0  # tanh compresses latents beyond it, where the decoder was not trained


class TinyBlock(nn.Module):
    """relu(x + conv(relu(conv(relu(conv(x)))))): [B, H, W, C] -> the same."""

    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = x
        for k in range(3):
            h = conv(x.shape[-1], dtype=self.dtype, name=f"conv_{k + 1}")(nn.relu(h) if k else h)
        return nn.relu(x + h)


class TinyEncoder(nn.Module):
    """Pictures in [0, 1] -> [B, H/f, W/f, outputs]; fields as `AutoencoderTiny`."""

    width: int
    layers: tuple[int, ...]
    outputs: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, number in enumerate(self.layers):
            if i:
                x = nn.Conv(
                    self.width, (3, 3), (2, 2), ((1, 1), (1, 1)), use_bias=False, dtype=self.dtype, name=f"down_{i - 1}"
                )(x)
            else:
                x = conv(self.width, dtype=self.dtype, name="conv_in")(x)
            for j in range(number):
                x = TinyBlock(self.dtype, name=f"level_{i}_block_{j}")(x)
        return conv(self.outputs, dtype="float32", name="conv_out")(x)


class TinyDecoder(nn.Module):
    """[B, h, w, D] -> pictures [B, f h, f w, outputs] in [0, 1]; fields as `AutoencoderTiny`."""

    width: int
    layers: tuple[int, ...]
    outputs: int
    dtype: str

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        z = jnp.tanh(z / SPREAD) * SPREAD
        x = nn.relu(conv(self.width, dtype=self.dtype, name="conv_in")(z))
        for i, number in reversed(list(enumerate(self.layers))):
            for j in range(number):
                x = TinyBlock(self.dtype, name=f"level_{i}_block_{j}")(x)
            if i:
                x = nn.Conv(self.width, (3, 3), use_bias=False, dtype=self.dtype, name=f"up_{i}")(upsample(x))
        return conv(self.outputs, dtype="float32", name="conv_out")(x)


class AutoencoderTiny(WithoutPosterior):
    """Pictures to latents and back, without a posterior; the factor is f = 2^(levels - 1).

        z = module.apply({"params": params}, x, method="encode")
        x = module.apply({"params": params}, z, method="decode")

    The diffusion model takes its latents as they are, so its scale is 1.

    Attributes:
        width: channels inside, at every side.
        encoder_layers: number of blocks of each level of the encoder, from the picture's side on.
        decoder_layers: number of blocks of each level of the decoder, in the same order.
        latent_channels: number D of the latents' channels.
        picture_channels: number C of the pictures' channels.
        scale: scale of the latents, see `diffusion.models.autoencoders.latent_space.to_diffusion`.
        shift: shift of the latents, likewise.
        dtype: compute type, "float32" or "bfloat16"; outputs are float32.

    Raises:
        ValueError: at construction, for a field out of range or an unknown name.

    Reference: Bohan, "Tiny AutoEncoder for Stable Diffusion", 2023, its code.
    """

    width: int = 64
    encoder_layers: tuple[int, ...] = (1, 3, 3, 3)
    decoder_layers: tuple[int, ...] = (1, 3, 3, 3)
    latent_channels: int = 4
    picture_channels: int = 3
    scale: Factor = 1.0
    shift: Factor = 0.0
    dtype: str = "float32"
    input_range = (0.0, 1.0)

    def __post_init__(self):
        for field in ("width", "latent_channels", "picture_channels"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field}={getattr(self, field)} must be positive")
        both = (*self.encoder_layers, *self.decoder_layers)
        if len(self.encoder_layers) != len(self.decoder_layers) or min(both, default=-1) < 0:
            raise ValueError(
                f"encoder_layers={self.encoder_layers} and decoder_layers={self.decoder_layers} must have the same "
                "number of levels, and for each level a number of blocks of at least 0"
            )
        look_up(dict.fromkeys(("float32", "bfloat16")), self.dtype, "dtype")
        super().__post_init__()

    def setup(self):
        self.encoder = TinyEncoder(self.width, self.encoder_layers, self.latent_channels, self.dtype)
        self.decoder = TinyDecoder(self.width, self.decoder_layers, self.picture_channels, self.dtype)

    @property
    def factor(self) -> int:
        """f, by which the sides of a latent are smaller than the picture's."""
        return 2 ** (len(self.encoder_layers) - 1)
