"""BLIP's captioner: an image tower, and a text decoder that attends to the picture.

logits = network.apply(variables, ids, images)                                # of the token after each of ids
cache = network.apply(variables, images, length, method="begin")               # a caption, token by token
logits, cache = network.apply(variables, ids[:, i], cache, i, method="step")    # of token i + 1
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.image_encoders.blip import BLIP
from diffusion.models.text_encoders.med import Cache, MEDDecoder


class BLIPCaptioner(nn.Module):
    """The logits of captions of pictures, token by token.

    Attributes:
        vision: tower of the pictures.
        text: decoder of the captions.

    Reference: Li et al., "BLIP: Bootstrapping Language-Image Pre-training", 2022, section 3.1; salesforce/BLIP,
    models/blip.py (BLIP_Decoder).
    """

    vision: BLIP
    text: MEDDecoder

    def __call__(self, ids: jax.Array, images: jax.Array) -> jax.Array:
        """Args:
            ids: integers [B, N] of captions, the decoder's `start` first.
            images: [B, size, size, 3] in [-1, 1].

        Returns:
            Logits [B, N, vocabulary] float32 of the token after each.
        """
        return self.text(ids, self.text.room(*ids.shape), 0, self.picture_tokens(images))[0]

    def begin(self, images: jax.Array, length: int) -> Cache:
        """The decoder's cache of pictures, before the first token.

        Args:
            images: [B, size, size, 3] in [-1, 1].
            length: the longest caption in tokens, `start` included.
        """
        start = jnp.full((len(images), 1), self.text.start)
        return self.text(start, self.text.room(len(images), length), 0, self.picture_tokens(images))[1]

    def step(self, ids: jax.Array, cache: Cache, at: jax.Array | int) -> tuple[jax.Array, Cache]:
        """Reads one further token of each caption.

        Args:
            ids: integers [B], the tokens at position `at`.
            cache: the cache of `begin` or of the last step.
            at: position of the tokens, 0 for `start`.

        Returns:
            (logits [B, vocabulary] float32 of the next token, the cache with this one).
        """
        logits, cache = self.text(ids[:, None], cache, at)
        return logits[:, 0], cache

    def picture_tokens(self, images: jax.Array) -> jax.Array:
        """The pictures' tokens [B, M, E], the class token first."""
        picture = self.vision(images)
        return jnp.concatenate([picture.pooled[:, None], picture.patches], axis=1)
