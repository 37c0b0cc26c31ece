"""ImageReward: how well people would like a picture for its prompt, as one number.

    picture -> BLIP -> tokens;  prompt, tokens -> BERT with attention to them -> first token -> five dense layers -> r

The reward is (r - mean) / std over the authors' pictures, so that 0 is an average picture of their training.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.image_encoders.blip import BLIP
from diffusion.models.text_encoders.med import MEDText

MEAN = 0.16717362830052426
"""Mean of the raw rewards (THUDM/ImageReward, ImageReward/ImageReward.py)."""
STD = 1.0333394966054072
"""Their standard deviation."""


class ImageReward(nn.Module):
    """The reward of pictures for prompts, [B].

    Attributes:
        vision: tower of the pictures.
        text: encoder of the prompts.
        hidden: features between the dense layers of the head, which has no activations; dropout is between them only in
            training.

    Reference: Xu et al., "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation", 2023;
    THUDM/ImageReward, ImageReward/ImageReward.py.
    """

    vision: BLIP
    text: MEDText
    hidden: tuple[int, ...] = (1024, 128, 64, 16)

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array, images: jax.Array) -> jax.Array:
        """Args:
            ids: integers [B, N] of the prompts, [CLS] first.
            mask: Bool [B, N], False where a prompt is padded.
            images: [B, size, size, 3] in [-1, 1].

        Returns:
            Rewards [B] float32, in standard deviations.
        """
        picture = self.vision(images)
        tokens = jnp.concatenate([picture.pooled[:, None], picture.patches], axis=1)
        x = self.text(ids, mask, tokens)[:, 0]
        for i, features in enumerate((*self.hidden, 1)):
            start = nn.initializers.normal(1 / (self.text.width + 1))
            x = nn.Dense(features, kernel_init=start, name=f"reward_{i}")(x)
        return (x[:, 0] - MEAN) / STD
