"""The vector-quantized autoencoder of VQGAN and latent diffusion: pictures to a grid of codes and back.

    x [B, H, W, 3] - Encoder - conv 1x1 - z [B, H/f, W/f, d]       (what latent diffusion diffuses)
    z - nearest code - conv 1x1 - Decoder - x [B, H, W, 3]

| published (latent diffusion, table 8) | f  | codes  | d |
|---------------------------------------|----|--------|---|
| VQ-f4                                 | 4  | 8,192  | 3 |
| VQ-f8                                 | 8  | 16,384 | 4 |
| VQ-f16                                | 16 | 16,384 | 8 |
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.not_a_number import table_rows
from diffusion.models.autoencoders import encoder_decoder, latent_space, quantizers
from diffusion.models.autoencoders.encoder_decoder import Decoder, Encoder, WithoutPosterior, shared_options
from diffusion.models.autoencoders.latent_space import Factor
from diffusion.models.layers.network_bases import CheckedNetwork


class VQModel(WithoutPosterior, CheckedNetwork):
    """Pictures to vectors, vectors to codes, and codes to pictures; the factor is f = 2^(levels - 1).

        z = module.apply({"params": params}, x, method="encode")
        values, indices = module.apply({"params": params}, z, method="quantize")
        x = module.apply({"params": params}, z, method="decode")        # quantizes first

    The codebook is the parameter "codebook" [K, d]; if it is a moving average of the vectors, not trained by
    a gradient (`quantizers.codebook_update`), the codes of that state replace it.

    Attributes:
        codes: number K of vectors in the codebook; 0 with `finite_levels`.
        widths: channels of each level, from the picture's side on.
        layers: residual blocks of a level of the encoder; the decoder has one more.
        latent_channels: channels between the encoder or decoder and its 1x1 convolution.
        code_channels: d.
        picture_channels: number C of the pictures' channels.
        groups: number of groups of the norms.
        attention_levels: levels, 0 at the picture's side, that have attention after each block.
        middle_attention: whether there is attention between the two blocks of the smallest side.
        finite_levels: d numbers of levels for finite scalar quantization, in place of a codebook.
        scale: scale of the vectors for a diffusion model, see
            `diffusion.models.autoencoders.latent_space.to_diffusion`.
        shift: shift of the vectors, likewise.
        input_range: range of the pixels inside the network; ours are in [-1, 1], and `encode` and `decode` convert
            them.

    Reference: Esser et al., "Taming Transformers for High-Resolution Image Synthesis", 2021, section 3.1; Rombach et
    al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, section 3.1.
    """

    codes: int = 8192
    widths: tuple[int, ...] = (128, 256, 512)
    layers: int = 2
    latent_channels: int = 3
    code_channels: int = 3
    picture_channels: int = 3
    groups: int = 32
    attention_levels: tuple[int, ...] = ()
    middle_attention: bool = True
    finite_levels: tuple[int, ...] = ()
    scale: Factor = 1.0
    shift: Factor = 0.0
    input_range: tuple[float, float] = (-1.0, 1.0)

    def check_fields(self) -> None:
        encoder_decoder.check_options(self)
        if bool(self.codes) == bool(self.finite_levels):
            raise ValueError(
                f"codes={self.codes}, finite_levels={self.finite_levels}: set exactly one of them, either a number of "
                "codes, or codes=0 and the levels of each channel"
            )
        if self.finite_levels and len(self.finite_levels) != self.code_channels:
            raise ValueError(
                f"finite_levels={self.finite_levels} has {len(self.finite_levels)} entries, but "
                f"code_channels={self.code_channels}; there must be one for each channel"
            )

    def setup(self):
        self.encoder = Encoder(shared_options(self), self.latent_channels)
        self.decoder = Decoder(shared_options(self), self.picture_channels)
        self.before_codes = nn.Conv(self.code_channels, (1, 1))
        self.behind_codes = nn.Conv(self.latent_channels, (1, 1))
        if self.codes:
            # Near zero, as in VQGAN: the vectors assigned to the codes draw them apart.
            start = lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -1 / self.codes, 1 / self.codes)
            self.codebook = self.param("codebook", start, (self.codes, self.code_channels))

    def _latent(self, x: jax.Array) -> jax.Array:
        """The vectors of a picture, before they are quantized."""
        return self.before_codes(self.encoder(latent_space.to_range(x, self.input_range)))

    def quantize(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The codes of vectors, with the gradient of the vectors (straight through).

        Args:
            z: [B, h, w, d].

        Returns:
            (the codes [B, h, w, d], their indices int32 [B, h, w]).
        """
        encoder_decoder.check_latents(z, self.code_channels)
        if self.finite_levels:
            return quantizers.FiniteScalar(self.finite_levels).quantize(z)
        indices, values = quantizers.nearest(z, self.codebook)
        return quantizers.straight_through(z, values), indices

    def look_up(self, indices: jax.Array) -> jax.Array:
        """The codes [B, h, w, d] of indices int [B, h, w], for `decode` with `quantize=False`.

        An index that no code has, such as a mask's, gives NaN.
        """
        if self.finite_levels:
            return quantizers.FiniteScalar(self.finite_levels).codes(indices)
        return table_rows(self.codebook, indices)

    def decode(self, z: jax.Array, quantize: bool = True) -> jax.Array:
        """The picture of vectors.

        Args:
            z: [B, h, w, d], neither scaled nor shifted.
            quantize: whether each vector is first replaced by its code.

        Returns:
            [B, f h, f w, C], about in [-1, 1] and not clipped, float32.

        Raises:
            ValueError: for another number of channels.
        """
        encoder_decoder.check_latents(z, self.code_channels)
        values = self.quantize(z)[0] if quantize else z
        return latent_space.from_range(self.decoder(self.behind_codes(values)), self.input_range)
