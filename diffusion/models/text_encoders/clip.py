"""CLIP: a text tower and an image tower that map a caption and its picture to nearby vectors.

    ids [B, N] -> tokens + positions -> depth x layer -> norm -> at the end of the text -> projection -> [B, P]
    images -> patches, class token, positions -> norm -> depth x layer -> class token -> norm -> projection -> [B, P]

    layer:  x = x + attention(norm(x));  x = x + out(act(hidden(norm(x))))

Text-to-image models read the states of the text's tokens, and some the pooled vector too:

| model   | call                                             | tokens are                                       |
|---------|--------------------------------------------------|--------------------------------------------------|
| SD 1, 2 | `apply(variables, ids)`                        | of the last layer, normalised (SD 2's checkpoint |
|         |                                                  | lacks the layer after)                           |
| SD 1    | `apply(variables, ids, skip=1)`                | of the layer before: "clip skip 2" of user pages |
| SDXL, 3 | `apply(variables, ids, skip=1, norm=False)`    | of the layer before, not normalised              |
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.boxes import patchify
from diffusion.models.image_encoders.image_features import ImageFeatures, PromptReading
from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.attention import mask_bias
from diffusion.models.layers.clip_layers import layer_norm, tower_layers
from diffusion.models.layers.conditions import TOKENS
from diffusion.models.layers.cross_attention import xavier
from diffusion.models.layers.network_bases import Backbone

MEAN = (0.48145466, 0.4578275, 0.40821073)  # mean of each channel of the training pictures, in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)
LEGACY_EOS = 2  # the end of the text in old configs; the end is then the largest id
normal = nn.initializers.normal(0.02)


class Encoded(NamedTuple):
    """The output of a tower.

    Attributes:
        tokens: [B, N, D] float32.
        pooled: [B, P] float32; None for a network without a pooled vector.
    """

    tokens: jax.Array
    pooled: jax.Array | None


class CLIPText(Backbone):
    """CLIP's text tower: a transformer with causal attention.

    Attributes:
        vocabulary: number of token ids.
        width: number of features of a token.
        depth: number of layers.
        heads: number of attention heads, a divisor of the width.
        hidden: number of features inside the MLP.
        positions: the longest text in tokens, 77.
        activation: "quick_gelu" (OpenAI's) or "gelu" (OpenCLIP's).
        eos: id of the token that ends the text; the pooled vector is its first token's. 2, as in old configs,
            stands for the largest id of the text, since the end is the last id of the published vocabulary.
        epsilon: epsilon of the norms, > 0.
        token_std: standard deviation of the tokens' embeddings at the start, 0.02 as published. With 1 the words stay
            distinct in the tower's output, even words that its loss has not yet needed.

    Reference: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, sec. 2.4.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    hidden: int
    positions: int = 77
    activation: str = "quick_gelu"
    eos: int = LEGACY_EOS
    epsilon: float = 1e-5
    token_std: float = 0.02
    choices = Backbone.choices | {"activation": ("quick_gelu", "gelu")}

    def check_fields(self) -> None:
        network_checks.tower(self)
        if not self.token_std > 0:
            raise ValueError(f"token_std={self.token_std} must be positive (0.02 as published)")

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array | None = None, *, skip: int = 0, norm: bool = True) -> Encoded:
        """Args:
            ids: integers [B, N], 0 .. vocabulary - 1, N at most `positions`.
            mask: Bool [B, N], True where other tokens may attend to a token; None, as in text-to-image models: to all.
            skip: number of last layers that the tokens skip, 0 .. depth - 1.
            norm: whether the final norm applies to the tokens; it always applies to the pooled vector.

        Returns:
            `Encoded`: tokens [B, N, width]; pooled [B, width], from the last layer, at the end of the text.

        Raises:
            ValueError: for shapes that do not fit.
        """
        network_checks.ids(ids, mask)
        if ids.shape[1] > self.positions:
            raise ValueError(
                f"the text has {ids.shape[1]} tokens, but this network has only {self.positions} positions; cut it, "
                "or encode it in windows (diffusion.text)"
            )
        length = ids.shape[1]
        positions = self.param("positions", normal, (self.positions, self.width))
        start = nn.initializers.normal(self.token_std)
        x = nn.Embed(self.vocabulary, self.width, embedding_init=start, name="tokens")(ids) + positions[:length]
        x = layout.split(x.astype(self.dtype), "batch", "tokens", None)
        visible = jnp.tri(length, dtype=bool)[None]
        visible = visible if mask is None else visible & mask[:, None]
        x, chosen = tower_layers(self)(x, mask_bias(visible), skip)
        final = layer_norm(self.epsilon, jnp.float32, "final_norm")
        end = jnp.argmax(ids if self.eos == LEGACY_EOS else ids == self.eos, axis=1)
        pooled = final(x[jnp.arange(len(x)), end])
        return Encoded(final(chosen) if norm else chosen.astype(jnp.float32), pooled)


class CLIPTextProjection(nn.Module):
    """CLIP's text tower with the projection into the space that texts and images share.

    Attributes:
        text: the tower.
        features: P of that space.
    """

    text: CLIPText
    features: int

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array | None = None, *, skip: int = 0, norm: bool = True) -> Encoded:
        """Arguments and tokens as `CLIPText`; pooled is [B, features]."""
        tokens, pooled = self.text(ids, mask, skip=skip, norm=norm)
        return Encoded(tokens, _projection(self.features, "projection")(pooled))


class CLIPVision(Backbone):
    """CLIP's image tower: a vision transformer whose pooled vector is its class token.

    Attributes:
        size: side of the images in pixels; the patch divides it.
        patch: side of a patch.
        width, depth, heads, hidden, activation, epsilon: fields as in `CLIPText`.

    Reference: Radford et al., 2021, section 2.4; Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021.
    """

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    choices = Backbone.choices | {"activation": ("quick_gelu", "gelu")}

    def check_fields(self) -> None:
        network_checks.tower(self)
        if self.size % self.patch:
            raise ValueError(f"patch={self.patch} does not divide size={self.size}")

    @property
    def prompt_reading(self) -> PromptReading:
        features = functools.partial(_prompt_features, self)
        return PromptReading(self.size, self.size, MEAN, self.width, self.width, features, features)

    @nn.compact
    def __call__(self, images: jax.Array, *, skip: int = 0) -> Encoded:
        """Args:
            images: [B, size, size, C], normalised by `normalised`.
            skip: number of last layers that the tokens skip (IP-Adapter Plus: 1).

        Returns:
            `Encoded`: tokens [B, 1 + (size / patch)^2, width], the class token first, without a final norm; pooled
            [B, width], from the last layer, normalised.

        Raises:
            ValueError: for images of another size.
        """
        if images.ndim != 4 or images.shape[1:3] != (self.size, self.size):
            raise ValueError(f"this network takes images [B, {self.size}, {self.size}, C]; got shape {images.shape}")
        x = patchify(images.astype(self.dtype), self.patch)
        x = nn.Dense(self.width, use_bias=False, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")(x)
        first = self.param("class_token", normal, (self.width,))
        positions = self.param("positions", normal, ((self.size // self.patch) ** 2 + 1, self.width))
        first = jnp.broadcast_to(first.astype(x.dtype), (len(x), 1, self.width))
        x = jnp.concatenate([first, x], axis=1) + positions.astype(x.dtype)
        x = layout.split(layer_norm(self.epsilon, self.dtype, "first_norm")(x), "batch", "tokens", None)
        x, chosen = tower_layers(self)(x, None, skip)
        return Encoded(chosen.astype(jnp.float32), layer_norm(self.epsilon, jnp.float32, "final_norm")(x[:, 0]))


def _prompt_features(encoder: nn.Module, params: Any, images: jax.Array) -> ImageFeatures:
    """The tokens before the last layer, the class token first, and the pooled vector."""
    return ImageFeatures(*encoder.apply({"params": params}, normalised(images), skip=1))  # type: ignore[misc]


class CLIPVisionProjection(nn.Module):
    """CLIP's image tower with the projection into the space that texts and images share.

    Attributes:
        vision: the tower.
        features: P of that space.
    """

    vision: CLIPVision
    features: int

    @property
    def prompt_reading(self) -> PromptReading:
        features = functools.partial(_prompt_features, self)
        return self.vision.prompt_reading._replace(pooled=self.features, features=features, inner=features)

    @nn.compact
    def __call__(self, images: jax.Array, *, skip: int = 0) -> Encoded:
        """Arguments and tokens as `CLIPVision`; pooled is [B, features]."""
        tokens, pooled = self.vision(images, skip=skip)
        return Encoded(tokens, _projection(self.features, "projection")(pooled))


class CLIP(nn.Module):
    """Both towers and the scale of their cosines, as they are trained together (objectives.image_text).

    Attributes:
        text: tower of the texts.
        vision: tower of the images.
        features: P of the space that they share.
        scale: logarithm of the scale at the start, ln(1 / 0.07) in the paper.

    Reference: Radford et al., 2021, figure 3.
    """

    text: CLIPText
    vision: CLIPVision
    features: int
    scale: float = 2.6592
    kind = "towers"
    ranks = (3,)
    text_inputs = TOKENS

    def setup(self):
        self.text_projection = _projection(self.features, None)
        self.image_projection = _projection(self.features, None)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(self.scale), ())

    def encode_text(self, ids: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Texts as `CLIPText` takes them -> [B, features] of length one."""
        return unit(self.text_projection(self.text(ids, mask).pooled))

    def encode_images(self, images: jax.Array) -> jax.Array:
        """Images as `CLIPVision` takes them -> [B, features] of length one."""
        return unit(self.image_projection(self.vision(images).pooled))

    def __call__(
        self, ids: jax.Array, images: jax.Array, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(texts [B, features], images [B, features], scale []): the logit of a pair is scale (text . image)."""
        return self.encode_text(ids, mask), self.encode_images(images), jnp.exp(self.logit_scale)


def normalised(images: jax.Array) -> jax.Array:
    """Images [B, H, W, 3] in [-1, 1], or uint8, as CLIP's image tower takes them: (x - mean) / std of each channel.

    Reference: Radford et al., 2021, their code; the size and the crop are the caller's.
    """
    unit = images / 255.0 if images.dtype == jnp.uint8 else (images + 1) / 2
    return (unit - jnp.array(MEAN, unit.dtype)) / jnp.array(STD, unit.dtype)


def unit(x: jax.Array) -> jax.Array:
    """Vectors `[..., D]` of length one."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _projection(features: int, name: str | None) -> nn.Dense:
    return nn.Dense(features, use_bias=False, kernel_init=normal, name=name)
