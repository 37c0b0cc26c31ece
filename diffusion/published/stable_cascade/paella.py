"""The autoencoder of Paella, stage A of Stable Cascade: latents of a quarter of the side, and blocks as in ConvNeXt.

encoder: 2 x 2 pixels to channels, dense - [block, (halve)] x levels - dense, batch norm
decoder: dense - [block x n, (double)] x levels - dense, channels to 2 x 2 pixels

block: x <- x + g_2 depthwise(norm(x) (1 + g_0) + g_1);  x <- x + g_5 mlp(norm(x) (1 + g_3) + g_4)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import pixel_shuffle, pixel_unshuffle
from diffusion.models.autoencoders import quantizers
from diffusion.models.autoencoders.deep_compression import FixedBatchNorm
from diffusion.models.autoencoders.encoder_decoder import WithoutPosterior
from diffusion.models.layers.network_bases import CheckedNetwork
from diffusion.models.layers.norms import layer_norm


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        gates = self.param("gates", nn.initializers.zeros, (6,))
        h = layer_norm(x) * (1 + gates[0]) + gates[1]
        h = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        x = x + gates[2] * nn.Conv(width, (3, 3), padding="VALID", feature_group_count=width, name="depthwise")(h)
        h = layer_norm(x) * (1 + gates[3]) + gates[4]
        h = nn.gelu(nn.Dense(4 * width, name="hidden")(h), approximate=False)
        return x + gates[5] * nn.Dense(width, name="out")(h)


class _Encoder(nn.Module):
    widths: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.Dense(self.widths[0], name="conv_in")(pixel_unshuffle(x, (2, 2)))
        for i, width in enumerate(self.widths):
            if i:
                h = nn.Conv(width, (4, 4), (2, 2), ((1, 1), (1, 1)), name=f"down_{i - 1}")(h)
            h = _Block(name=f"level_{i}")(h)
        return FixedBatchNorm(name="norm_out")(nn.Dense(self.outputs, use_bias=False, name="conv_out")(h))


class _Decoder(nn.Module):
    widths: tuple[int, ...]
    layers: int
    outputs: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        h = nn.Dense(self.widths[-1], name="conv_in")(z)
        for i, _ in reversed(list(enumerate(self.widths))):
            for j in range(self.layers if i == len(self.widths) - 1 else 1):
                h = _Block(name=f"level_{i}_block_{j}")(h)
            if i:
                h = nn.ConvTranspose(self.widths[i - 1], (4, 4), (2, 2), name=f"up_{i}")(h)
        return pixel_shuffle(nn.Dense(4 * self.outputs, name="conv_out")(h), (2, 2))


class PaellaVQ(WithoutPosterior, CheckedNetwork):
    """Pictures to latents and back; the factor is f = 2^levels.

        z = module.apply({"params": params}, x, method="encode")
        x = module.apply({"params": params}, z, method="decode")

    The latents of `encode` are not quantized, as in Stable Cascade; `quantize` returns the codes of latents.

    Attributes:
        width: number of channels of the coarsest level; each finer level has half as many as the next coarser one.
        levels: number of levels.
        layers: number of blocks of the decoder's coarsest level; its other levels have one block each.
        latent_channels: number D of channels of the latents.
        codes: number of vectors in the codebook.
        picture_channels: number C of channels of the pictures.
        scale: scale of the latents, see `diffusion.models.autoencoders.latent_space.to_diffusion`.

    Reference: Rampas et al., "A Novel Sampling Scheme for Text- and Image-Conditional Image Synthesis in Quantized
    Latent Spaces", 2022.
    """

    width: int = 384
    levels: int = 2
    layers: int = 12
    latent_channels: int = 4
    codes: int = 8192
    picture_channels: int = 3
    scale: float = 1 / 0.3764
    shift = 0.0
    input_range = (0.0, 1.0)
    positive = ("width", "levels", "layers", "latent_channels", "codes", "picture_channels", "scale")

    @property
    def widths(self) -> tuple[int, ...]:
        """The numbers of channels of the levels, the finest level first."""
        return tuple(self.width // 2**i for i in reversed(range(self.levels)))

    @property
    def factor(self) -> int:
        """The factor f by which the sides of a latent are smaller than the sides of its picture."""
        return 2**self.levels

    def setup(self):
        self.encoder = _Encoder(self.widths, self.latent_channels)
        self.decoder = _Decoder(self.widths, self.layers, self.picture_channels)
        start = lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -1 / self.codes, 1 / self.codes)
        self.codebook = self.param("codebook", start, (self.codes, self.latent_channels))

    def quantize(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(the nearest codes [B, h, w, D] of latents, their indices int32 [B, h, w])."""
        indices, values = quantizers.nearest(z, self.codebook)
        return values, indices
