"""BLIP's captioner: an image tower, and a text decoder that attends to the picture.

logits = network.apply(variables, ids, images)                                # for the token after each of ids
cache = network.apply(variables, images, length, method="begin")               # begins captions, token by token
logits, cache = network.apply(variables, ids[:, i], cache, i, method="step")    # for token i + 1
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.image_encoders.blip import BLIP
from diffusion.models.text_encoders.med import Cache, MEDDecoder


class BLIPCaptioner(nn.Module):
    """The logits of captions of pictures, token by token.

    Attributes:
        vision: the tower that encodes the pictures.
        text: the decoder that reads the captions.

    Reference: Li et al., "BLIP: Bootstrapping Language-Image Pre-training", 2022, section 3.1; salesforce/BLIP,
    models/blip.py (BLIP_Decoder).
    """

    vision: BLIP
    text: MEDDecoder

    def __call__(self, ids: jax.Array, images: jax.Array) -> jax.Array:
        """Args:
            ids: tokens of the captions, int [B, N], each beginning with the decoder's `start`.
            images: the pictures, [B, size, size, 3] in [-1, 1].

        Returns:
            The logits for the token after each, float32 [B, N, vocabulary].
        """
        return self.text(ids, self.text.room(*ids.shape), 0, self.picture_tokens(images))[0]

    def begin(self, images: jax.Array, length: int) -> Cache:
        """The decoder's cache for pictures, before the first token.

        Args:
            images: the pictures, [B, size, size, 3] in [-1, 1].
            length: the longest caption in tokens, `start` included.
        """
        start = jnp.full((len(images), 1), self.text.start)
        return self.text(start, self.text.room(len(images), length), 0, self.picture_tokens(images))[1]

    def step(self, ids: jax.Array, cache: Cache, at: jax.Array | int) -> tuple[jax.Array, Cache]:
        """Reads one more token of each caption.

        Args:
            ids: the tokens at position `at`, int [B].
            cache: the cache that `begin` or the last step returned.
            at: position of the tokens, 0 for `start`.

        Returns:
            (the logits for the next token, float32 [B, vocabulary]; the cache with the token that was read).
        """
        logits, cache = self.text(ids[:, None], cache, at)
        return logits[:, 0], cache

    def picture_tokens(self, images: jax.Array) -> jax.Array:
        """The pictures' tokens [B, M, E], the class token first."""
        picture = self.vision(images)
        return jnp.concatenate([picture.pooled[:, None], picture.patches], axis=1)
