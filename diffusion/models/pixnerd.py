"""PixNerd: a transformer of large patches of pixels, whose last layers are a neural field of each patch.

     class     t             x [B, H, W, C]            x, pixel by pixel
       |       |                   |                          |
    embedding  features, MLP    patches, dense       beside cosines of its place
       +---+---+                   |                    in the patch, dense
         silu: c --> [ DiT's layer ] x depth                  |
               |                   |                          |
               +-- t: add, silu, dense: weights --> [ MLP of these weights ] x field_depth
                                                              |
                                                      norm, dense: a pixel
                                                              |
                                                        [B, H, W, C]

Every patch has its own MLPs, whose weights the transformer computes; they are functions of the position in the patch,
so that detail costs no tokens. Pictures and features are channels last.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import patchify, unpatchify
from diffusion.models.layers import layer_masks, layout, network_checks
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import Block, normalisation, xavier, zeros
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.condition_embedding import condition_vector, time_and_class
from diffusion.models.layers.embeddings import TimestepEmbedding, rope_angles
from diffusion.models.layers.network_bases import Backbone, Condition, Numbers
from diffusion.models.layers.patches import embedded_patches
from diffusion.models.layers.scan import scanned
from diffusion.models.layers.stacks import Layered, Stack

SIZES = {  # configs_c2i/pix256std1_repa_pixnerd_large.yaml and _xl.yaml of the authors' repository
    "L/16": {"patch": 16, "width": 1024, "depth": 22, "heads": 16, "field_depth": 2},
    "XL/16": {"patch": 16, "width": 1152, "depth": 26, "heads": 16, "field_depth": 4},
}


def place_features(side: int, frequencies: int) -> np.ndarray:
    """Products of cosines of a pixel's place (x, y) in its patch, in [0, 1].

        out[y side + x, i frequencies + j] = cos(pi f_i x) cos(pi f_j y) / (1 + f_i f_j)

    where the f are evenly spaced from 0 to `frequencies`.

    Args:
        side: side of a patch in pixels.
        frequencies: number of frequencies.

    Returns:
        [side^2, frequencies^2], float32 (computed in float64).

    Reference: Wang et al., "PixNerd: Pixel Neural Field Diffusion", 2025, equation 12, and the authors' code.
    """
    place = np.linspace(0, 1, side)
    f = np.linspace(0, frequencies, frequencies)
    wave = np.cos(np.pi * np.outer(place, f))
    out = wave[None, :, :, None] * wave[:, None, None, :] / (1 + np.outer(f, f))
    return out.reshape(side**2, -1).astype(np.float32)


class FieldBlock(nn.Module):
    """h <- h + silu(norm(h) W_1) W_2 for the pixels of each patch, with weights computed from the patch's token.

    The columns of W_1 and W_2 have length one. It takes pixels h [B, N, P, D] and tokens s [B, N, S], and returns
    (h, None), as a scan expects.

    Reference: Wang et al., 2025, section 3.3.
    """

    ratio: int
    dtype: str

    @nn.compact
    def __call__(self, h: jax.Array, s: jax.Array) -> tuple[jax.Array, None]:
        width = h.shape[-1]
        hidden = self.ratio * width
        first = self._weights("first", (width, hidden), s)
        second = self._weights("second", (hidden, width), s)
        x = jnp.einsum("bnpi,bnij->bnpj", nn.RMSNorm(dtype=self.dtype, name="norm")(h), first)
        return h + jnp.einsum("bnpi,bnij->bnpj", nn.silu(x), second), None

    def _weights(self, name: str, shape: tuple[int, int], s: jax.Array) -> jax.Array:
        """Weights [B, N, *shape], with columns of length one."""
        w = nn.DenseGeneral(shape, dtype=self.dtype, kernel_init=xavier, name=name)(s).astype(jnp.float32)
        return (w * jax.lax.rsqrt(jnp.maximum(jnp.square(w).sum(-2, keepdims=True), 1e-24))).astype(self.dtype)


class PixNerd(Layered, Backbone):
    """The PixNerd: `apply(variables, x, t, condition)` is a `Network`.

    The paper reads it as a velocity, with the clock `reversed_time`.

    Attributes:
        patch: side of a patch in pixels; it divides height and width.
        width: number of features of a token; 4 `heads` divide it.
        depth: number of the transformer's blocks.
        heads: number of attention heads.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for an unconditional network.
        field_width: features of a pixel in the neural field.
        field_depth: MLPs of the neural field, one after the other.
        field_ratio: hidden features of such an MLP over `field_width`.
        frequencies: number of frequencies of a pixel's position along each side, see `place_features`.
        mlp_ratio: hidden features of the transformer's MLP over `width`; SwiGLU has two thirds of them.
        span: rotary position of the last row and column, see `rope_angles`.
        shape: (H, W, C) of the images for which it is made, as in the files of other libraries; it takes other H and W
            too. None: the shape of the first images.

    Reference: Wang et al., "PixNerd: Pixel Neural Field Diffusion", 2025.
    """

    patch: int
    width: int
    depth: int
    heads: int
    num_classes: int
    field_width: int = 64
    field_depth: int = 4
    field_ratio: int = 2
    frequencies: int = 8
    mlp_ratio: float = 4.0
    span: float = 16.0
    shape: tuple[int, int, int] | None = None
    ranks = (3,)
    layer_masks = ("skip", "identity", "borrow")
    positive = ("patch", "width", "depth", "heads", "field_width", "field_depth", "field_ratio", "frequencies",
                "mlp_ratio", "span")  # fmt: skip

    def check_fields(self) -> None:
        network_checks.classes(self)
        network_checks.heads(self, 4)

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition = None, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: images [B, H, W, C].
            t: the network's clock [B] or [], float32 or wider; in [0, 1].
            condition: class labels int [B] in 0 .. num_classes, or None if num_classes is 0; or a dict of "label" and
                the layer masks (`diffusion.models.layers.layer_masks`).
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C].
        """
        label, masks = layer_masks.parted(condition, x.shape[0], self.depth)
        network_checks.labelled_images(self, x, t, label)
        recorded = Features(features, self.feature_blocks)
        batch, height, width, channels = x.shape
        rows = height // self.patch
        columns = width // self.patch

        times = functools.partial(TimestepEmbedding, max_period=10.0)
        time, class_vector = time_and_class(self, t, label, batch, times)
        c = condition_vector(time, class_vector)
        dense = lambda size, name: nn.Dense(size, dtype=self.dtype, kernel_init=xavier, name=name)
        tokens = layout.split(embedded_patches(x, self.patch, self.width, self.dtype), "batch", "tokens", None)
        angles = jnp.asarray(rope_angles(rows, columns, self.width // self.heads, span=self.span))
        fields = (self.heads, self.mlp_ratio, "scaled_rmsnorm", "swiglu", True, self.attention, self.dtype, False)
        blocks = Stack("blocks", self.depth, Block, fields, (c, angles, masks))
        tokens = blocks.run(self, tokens, recorded)
        tokens = nn.silu(time[:, None] + tokens)

        pixels = patchify(x, self.patch).reshape(batch, rows * columns, self.patch**2, channels)
        places = jnp.asarray(place_features(self.patch, self.frequencies), pixels.dtype)
        places = jnp.broadcast_to(places, (*pixels.shape[:3], places.shape[-1]))
        h = dense(self.field_width, "pixel_embedding")(jnp.concatenate([pixels, places], axis=-1))
        h = layout.split(h, "batch", "tokens", None, None)
        field = scanned(FieldBlock, self.field_depth, self.remat, self.is_initializing(), in_axes=(nn.broadcast,))
        h, _ = field(self.field_ratio, self.dtype, name="field_blocks")(h, tokens)
        h = normalisation("scaled_rmsnorm", "final_norm", self.dtype)(h)
        # In float32: bfloat16 would round the output to 8 bits.
        h = nn.Dense(channels, dtype=jnp.float32, kernel_init=zeros, bias_init=zeros, name="final")(h)
        return recorded.beside(unpatchify(h.reshape(batch, rows * columns, -1), self.patch, height, width))


def pixnerd_preset(size: str, num_classes: int = 1000, **options: Any) -> PixNerd:
    """Builds a PixNerd of a published size.

    Args:
        size: "L/16" or "XL/16".
        num_classes: number of classes; the paper's networks have 1000.
        **options: other fields of `PixNerd`.

    Raises:
        ValueError: for an unknown size, and as `PixNerd`.

    Reference: Wang et al., 2025, section 4, and the configs of the authors' repository.
    """
    return PixNerd(num_classes=num_classes, **look_up(SIZES, size, "size"), **options)
