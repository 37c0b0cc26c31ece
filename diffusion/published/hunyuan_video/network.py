"""The transformer of HunyuanVideo: Flux's layers over the patches of all frames, and a text that is refined first.

    text [B, M, E] -- dense, [ attention, MLP, gated by the time and the mean of the text ] x 2
                      |                             x [B, F, H, W, C]
                      |                                    |
                      |                       patches of 1 x 2 x 2, dense
                      |                                    |
    t, pooled --> [ joint layer: attention over both, an MLP each ]   x depth
    (strength)    [ single layer: attention and MLP side by side  ]   x singles
                                                           |
                                      norm, shift, scale, dense, unpatchify --> [B, F, H, W, C]

Videos and features are channels last.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import depth_to_space, space_to_depth
from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.attention import mask_bias
from diffusion.models.layers.blocks import Attention, Modulation, modulated_output, xavier
from diffusion.models.layers.conditions import entries
from diffusion.models.layers.joint_blocks import Conditioning, MixedTimes
from diffusion.models.layers.joint_conditions import check_strength, check_text
from diffusion.models.layers.joint_stacks import joint_then_single
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.rotary import axis_angles, grid_positions
from diffusion.models.layers.stacks import Layered

PATCH = 2  # side of a patch, which is of one frame
THETA = 256.0


class RefinerBlock(nn.Module):
    """x + gate * attention(norm(x)), then x + gate' * mlp(norm(x)), with gates of the condition.

    Its input is the tokens x [B, M, D], the condition c [B, D] after SiLU, and the bias of the attention scores, see
    `diffusion.models.layers.attention`.
    """

    heads: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array, bias: jax.Array) -> jax.Array:
        width = x.shape[-1]
        norm = lambda name: nn.LayerNorm(1e-6, dtype=self.dtype, use_fast_variance=False, name=name)
        dense = lambda size, name: nn.Dense(size, dtype=self.dtype, kernel_init=xavier, name=name)
        gate, second = Modulation(2, self.dtype, name="gates")(c)
        attend = Attention(self.heads, False, self.attention, self.dtype, name="attention")
        x = x + gate * attend(norm("attention_norm")(x), None, {}, bias)
        return x + second * dense(width, "out")(nn.silu(dense(4 * width, "hidden")(norm("mlp_norm")(x))))


class TextRefiner(nn.Module):
    """[B, M, E] -> [B, M, width]: two layers of attention among the words, gated by the time and the text's mean.

    Reference: Ma et al., "Exploring the Role of Large Language Models in Prompt Encoding for Diffusion Models", 2024.
    """

    width: int
    depth: int
    heads: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, text: jax.Array, mask: jax.Array, t: jax.Array) -> jax.Array:
        shown = mask[..., None].astype(text.dtype)
        mean = (text * shown).sum(1) / jnp.maximum(shown.sum(1), 1)
        c = Conditioning(self.width, self.dtype, name="conditioning")(t, mean)
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="enter")(text)
        for i in range(self.depth):
            x = RefinerBlock(self.heads, self.attention, self.dtype, name=f"block_{i}")(x, c, mask_bias(mask))
        return x


class HunyuanVideo(Layered, Backbone):
    """The transformer of HunyuanVideo: `apply(variables, x, t, condition)` is a `Network`.

    Attributes:
        channels: C of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: number of joint layers.
        singles: number of single layers.
        refiners: number of layers that refine the text before it meets the clip.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.
        pooled_width: number P of features of the pooled text.
        axes: features of a head that rotate with frame, row and column; they sum to width / heads.
        strength: whether the network receives the scale of the guidance that it imitates.
        image_condition: how the network sees an image with which the clip begins:
            "none": not at all.
            "latent_concat": channels beside the latents hold the latents of the image, then zeros, and a mask.
            "token_replace": the first latent frame is the image's, and its tokens have the time 0 and no strength.

    Reference: Kong et al., "HunyuanVideo: A Systematic Framework For Large Video Generative Models", 2024; the image
    conditions are those of the code of HunyuanVideo-I2V (Tencent, 2025).
    """

    channels: int = 16
    width: int = 3072
    depth: int = 20
    singles: int = 40
    refiners: int = 2
    heads: int = 24
    text_width: int = 4096
    pooled_width: int = 768
    axes: tuple[int, int, int] = (16, 56, 56)
    strength: bool = True
    image_condition: str = "none"
    depths = ("depth", "singles")
    ranks = (4,)
    takes_frames = True
    positive = ("channels", "width", "depth", "singles", "refiners", "heads", "text_width", "pooled_width")
    choices = Backbone.choices | {"image_condition": ("none", "latent_concat", "token_replace")}

    def check_fields(self) -> None:
        network_checks.rotary_axes(self, 3)

    @property
    def in_channels(self) -> int:
        """The number of channels of the network's input."""
        return 2 * self.channels + 1 if self.image_condition == "latent_concat" else self.channels

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, F, H, W, in_channels]; H and W even.
            t: times in [0, 1], [B] or [], float32 or wider. With "token_replace" also [B, F], of which the last time is
                read: the first frame is clean, and all others share one time.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width], of Llama. "text_mask": Bool [B, M]. "pooled": [B, pooled_width], of CLIP.
                "strength": [B], required where the network receives it, refused elsewhere.
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, F, H, W, channels].
        """
        inputs = entries(condition, ("text", "text_mask", "pooled", *("strength",) * self.strength))
        t = self._checked_time(x, t, inputs)
        batch, frames, height, width, _ = x.shape
        t = 1000 * jnp.broadcast_to(jnp.asarray(t), (batch,))

        grid = (frames, height // PATCH, width // PATCH)
        patches = space_to_depth(x, (1, PATCH, PATCH)).reshape(batch, math.prod(grid), -1)
        video = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")(patches)
        refiner = TextRefiner(self.width, self.refiners, self.heads, self.attention, self.dtype, name="refiner")
        text = refiner(inputs["text"], inputs["text_mask"], t)
        strength = 1000 * inputs["strength"] if self.strength else None
        conditioning = Conditioning(self.width, self.dtype, name="conditioning")
        c = conditioning(t, inputs["pooled"], strength)
        words = text.shape[1]
        angles = jnp.asarray(axis_angles(np.pad(grid_positions(*grid), [(words, 0), (0, 0)]), self.axes, THETA))
        shown = jnp.concatenate([inputs["text_mask"], jnp.ones(video.shape[:2], bool)], axis=1)
        per_layer = lambda depth: {"seen": jnp.broadcast_to(shown, (depth, *shown.shape))}

        streams = layout.split(video, "batch", "tokens", None), layout.split(text, "batch", "tokens", None)
        joint_condition = single_condition = c
        if self.image_condition == "token_replace":
            first_condition = conditioning(jnp.zeros_like(t), inputs["pooled"])
            first = np.arange(video.shape[1]) < video.shape[1] // frames
            joint_condition = MixedTimes(c, first_condition, jnp.asarray(first))
            single_condition = joint_condition._replace(others=jnp.asarray(np.pad(first, (words, 0))))
        joint = (
            (self.heads, True, False, False, self.attention, self.dtype),
            (joint_condition, angles, per_layer(self.depth)),
        )
        single = (self.heads, self.attention, self.dtype), (single_condition, angles, per_layer(self.singles))

        def output(tokens: jax.Array) -> jax.Array:
            tokens = modulated_output(tokens, c, layer_norm, PATCH**2 * self.channels, self.dtype)
            return depth_to_space(tokens.reshape(batch, *grid, -1), (1, PATCH, PATCH))

        return joint_then_single(self, streams, joint, single, video.shape[1], output, features)

    def _checked_time(self, x: jax.Array, t: jax.Array, inputs: dict[str, Any]) -> jax.Array:
        """The time of all frames, or of all frames after the first, [B] or []."""
        if self.image_condition == "token_replace" and jnp.ndim(t) == 2:
            network_checks.frame_times(self, x, t)
            t = t[:, -1]
        network_checks.latents(self, x, t, self.in_channels, video=True)
        check_text(x.shape[0], self.text_width, inputs, self.pooled_width)
        check_strength(x.shape[0], inputs)
        return t


MODELS = {"hunyuan_video": HunyuanVideo}  # by its name in configs
