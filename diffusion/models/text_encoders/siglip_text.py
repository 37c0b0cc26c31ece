"""SigLIP's text tower, and both of its towers with the logit of a pair.

    ids [B, N] -> tokens + positions -> depth x layer -> norm -> last position -> head -> [B, P]

    logit of (text, image) = exp(logit_scale) (text . image) + logit_bias,  of vectors of length one

The probability that a text and an image belong together is the sigmoid of their logit.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.image_encoders.siglip import SigLIP
from diffusion.models.layers import network_checks
from diffusion.models.layers.network_bases import CheckedNetwork
from diffusion.models.layers.vision_layers import Layers, normal
from diffusion.models.text_encoders.clip import Encoded, unit


class SigLIPText(CheckedNetwork):
    """SigLIP's text tower: attention in both directions, without a mask, and the vector of the last position.

    The last position of a short text is padding, so that texts must be padded to `positions`, as in the training.

    Attributes:
        vocabulary: number of token ids: 256,000 in SigLIP 2, whose vocabulary is Gemma's.
        width: number of features of a token.
        depth: number of layers.
        heads: number of attention heads, a divisor of the width.
        hidden: number of features inside the MLP.
        features: number P of features of the image tower's pooled vector.
        positions: the longest text in tokens.
        epsilon: epsilon of the norms, > 0.

    References:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023.
        Tschannen et al., "SigLIP 2: Multilingual Vision-Language Encoders", 2025.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    hidden: int
    features: int
    positions: int = 64
    epsilon: float = 1e-6

    def check_fields(self) -> None:
        network_checks.tower(self)

    @nn.compact
    def __call__(self, ids: jax.Array) -> Encoded:
        """Args:
            ids: integers [B, N], 0 .. vocabulary - 1, padded to N = `positions`.

        Returns:
            `Encoded`: tokens [B, N, width], normalised; pooled [B, features], of any length.

        Raises:
            ValueError: for ids of another shape or of floats.
        """
        if ids.ndim != 2 or ids.shape[1] != self.positions or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(
                f"the text must be integer ids [B, {self.positions}], padded to this length; got shape {ids.shape}, "
                f"dtype {ids.dtype}"
            )
        positions = self.param("positions", normal, (self.positions, self.width))
        x = nn.Embed(self.vocabulary, self.width, embedding_init=normal, name="tokens")(ids) + positions
        x = Layers(
            self.depth,
            self.heads,
            self.hidden,
            self.epsilon,
            mlp="gelu_tanh",
            attention=self.attention,
            dtype=self.dtype,
            name="encoder",
        )(x)
        return Encoded(x, nn.Dense(self.features, kernel_init=normal, name="head")(x[:, -1]))


class SigLIPTowers(nn.Module):
    """Both towers, the scale of their cosines and its bias.

    Attributes:
        text: tower of the texts.
        vision: tower of the images.

    Raises:
        ValueError: at construction, if the towers' vectors are not of one space.

    Reference: Zhai et al., 2023, section 3.1, for the start of the scale (10) and of the bias (-10).
    """

    text: SigLIPText
    vision: SigLIP

    def __post_init__(self):
        if self.text.features != self.vision.width:
            raise ValueError(
                f"texts have {self.text.features} features but images have {self.vision.width}; both must have the "
                "same number"
            )
        super().__post_init__()

    def setup(self):
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(jnp.log(10.0)), ())
        self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Texts as `SigLIPText` takes them -> [B, features] of length one."""
        pooled = self.text(ids).pooled
        assert pooled is not None
        return unit(pooled)

    def encode_images(self, images: jax.Array) -> jax.Array:
        """Images as `SigLIP` takes them -> [B, features] of length one."""
        return unit(self.vision(images).pooled)

    def __call__(self, ids: jax.Array, images: jax.Array) -> jax.Array:
        """Texts and images, [B] each -> the logit of each text with each image, [B, B]."""
        cosines = self.encode_text(ids) @ self.encode_images(images).T
        return jnp.exp(self.logit_scale) * cosines + self.logit_bias
