"""Llava: CLIP's image tower, whose tokens stand in the text that Llama reads.

picture [B, S, S, 3] -> CLIP's patches before its last layer -> dense, GELU, dense -> tokens [B, h, w, D]
ids [B, N], with h w placeholders for each picture -> embeddings, the picture's tokens in their places -> decoder
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers.cross_attention import xavier
from diffusion.models.text_encoders.clip import CLIPVision, Encoded, normalised
from diffusion.models.text_encoders.decoder import DecoderEncoder
from diffusion.models.text_encoders.placeholders import in_places


class Llava(nn.Module):
    """Llava as text encoder: ids [B, N] and the tokens of pictures -> states [B, N, K width].

    Attributes:
        vision: image tower.
        text: decoder of the language model.
        placeholder: id of the tokens in whose places a picture's tokens stand, row by row.

    Reference: Liu et al., "Improved Baselines with Visual Instruction Tuning", 2024, on the two dense layers.
    """

    vision: CLIPVision
    text: DecoderEncoder
    placeholder: int = 32000

    def setup(self):
        dense = lambda: nn.Dense(self.text.width, dtype=self.text.dtype, kernel_init=xavier)
        self.hidden, self.out = dense(), dense()

    def __call__(
        self,
        ids: jax.Array,
        mask: jax.Array | None = None,
        *,
        pictures: Sequence[jax.Array] = (),
        layers: Sequence[int] = (-1,),
    ) -> Encoded:
        """The states of texts, as `DecoderEncoder` returns them.

        Args:
            ids: integers [B, N]; each row has as many placeholders as the pictures have tokens.
            mask: Bool [B, N], True where other tokens may attend to a token; None: True for all.
            pictures: tokens [h, w, width] of the pictures of every text, in its order, as `see` returns them.
            layers: numbers of the layers to return, which `DecoderEncoder` explains.
        """
        if self.is_initializing():
            self.see(jnp.zeros((1, self.vision.size, self.vision.size, 3)))
        if not pictures:
            return self.text(ids, mask, layers=layers)
        return self.text(ids, mask, layers=layers, replaced=in_places(ids, self.placeholder, pictures))

    def see(self, images: jax.Array) -> jax.Array:
        """The tokens of pictures [B, S, S, 3] in [-1, 1] at the size of the image tower, [B, h, w, width]."""
        patches = self.vision(normalised(images), skip=1).tokens[:, 1:]
        side = self.vision.size // self.vision.patch
        tokens = self.out(nn.gelu(self.hidden(patches), approximate=False))
        return tokens.reshape(len(tokens), side, side, -1)
