"""JiT, "just image Transformers": a transformer of large patches of pixels, which predicts the picture itself.

     class              t                  x [B, H, W, C]
       |                |                        |
    embedding     sinusoid, MLP      patches, dense to the bottleneck,
       |                |               dense, + sin-cos positions
       +-------+--------+                        |
       |     silu: c -------------> [ a layer of DiT: RMSNorm, RoPE, SwiGLU ]  x class_start
       |       |                                 |
       +-- class_tokens copies, + positions -> before them
               |                                 |
               +------------------> [ a layer of DiT ]                         x depth - class_start
               |                                 |
               +--> shift, scale ------ norm, dense, unpatchify (only the picture's tokens)
                                                 |
                                           [B, H, W, C]

Pictures and features are channels last.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers import layer_masks, layout, network_checks
from diffusion.models.layers.blocks import Block, normalisation, xavier
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.condition_embedding import condition_vector, time_and_class
from diffusion.models.layers.embeddings import rope_angles
from diffusion.models.layers.network_bases import Backbone, Condition, Numbers, Through
from diffusion.models.layers.patches import embedded_patches, picture_output
from diffusion.models.layers.stacks import Layered, Stack, several_stacks

SIZES = {  # width, depth, heads, bottleneck, class_start: the authors' model_jit.py
    "B": (768, 12, 12, 128, 4),
    "L": (1024, 24, 16, 128, 8),
    "H": (1280, 32, 16, 256, 10),
}
PRESETS: dict[str, dict[str, Any]] = {
    f"{size}/{patch}": {
        "patch": patch,
        "width": width,
        "depth": depth,
        "heads": heads,
        "bottleneck": bottleneck,
        "class_start": start,
    }
    for size, (width, depth, heads, bottleneck, start) in SIZES.items()
    for patch in (16, 32)
}


class JiT(Layered, Backbone):
    """The JiT: `apply(variables, x, t, condition)` is a `Network`.

    The paper reads it as x_0 (`parameterizations.clipped_x0`) with the clock `reversed_time`.

    Attributes:
        patch: side of a patch in pixels; it divides height and width.
        width: number of features of a token; 4 `heads` divide it.
        depth: number of blocks.
        heads: number of attention heads.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for an unconditional network.
        bottleneck: features of a patch between the two layers that embed it.
        class_tokens: tokens of the class that join the picture's; 0 for an unconditional network.
        class_start: number of blocks before the class's tokens join the picture's.
        mlp_ratio: hidden features of the MLP over `width`; SwiGLU has two thirds of them.
        shape: (H, W, C) of the images for which it is made, as in the files of other libraries; it takes other H and W
            too. None: the shape of the first images.

    Reference: Li & He, "Back to Basics: Let Denoising Generative Models Denoise", 2025.
    """

    patch: int
    width: int
    depth: int
    heads: int
    num_classes: int
    bottleneck: int = 128
    class_tokens: int = 32
    class_start: int = 4
    mlp_ratio: float = 4.0
    shape: tuple[int, int, int] | None = None
    norm = "scaled_rmsnorm"
    mlp = "swiglu"
    qk_norm = True
    ranks = (3,)
    layer_masks = ("skip", "identity", "borrow")
    reuses = ("blocks",)
    positive = ("patch", "width", "depth", "heads", "bottleneck", "mlp_ratio")

    def check_fields(self) -> None:
        network_checks.classes(self)
        network_checks.heads(self, 4)
        if self.class_tokens < 0 or (self.class_tokens and not self.num_classes):
            raise ValueError(f"class_tokens={self.class_tokens} must be at least 0, and 0 if num_classes is 0")
        if not 0 <= self.class_start < self.depth:
            raise ValueError(f"class_start={self.class_start} must be 0 .. depth - 1 = {self.depth - 1}")

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Condition = None, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: images [B, H, W, C].
            t: the network's clock [B] or [], float32 or wider; 0 .. 1 with 1 for clean pictures in the published ones.
            condition: class labels int [B] in 0 .. num_classes, or None if num_classes is 0; or a dict of "label" and
                the layer masks (`diffusion.models.layers.layer_masks`).
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C].
        """
        label, masks = layer_masks.parted(condition, x.shape[0], self.depth)
        network_checks.labelled_images(self, x, t, label)
        batch, height, width, _ = x.shape
        rows = height // self.patch
        columns = width // self.patch

        # The largest patches have 3,072 pixels' numbers, and pictures far fewer degrees of freedom.
        narrow = nn.Dense(self.bottleneck, False, self.dtype, kernel_init=xavier, name="patch_bottleneck")
        tokens = embedded_patches(x, self.patch, self.width, self.dtype, sincos=True, narrow=narrow)
        tokens = layout.split(tokens, "batch", "tokens", None)
        angles = jnp.asarray(rope_angles(rows, columns, self.width // self.heads))

        time, class_vector = time_and_class(self, t, label, batch)
        c = condition_vector(time, class_vector)

        picture = lambda tokens: tokens[:, -rows * columns :]
        early = c, angles, jax.tree.map(lambda mask: mask[: self.class_start], masks)
        join = lambda tokens: tokens
        if class_vector is not None and self.class_tokens:
            positions = self.param("class_positions", nn.initializers.normal(0.02), (self.class_tokens, self.width))
            first = class_vector[:, None] + positions.astype(tokens.dtype)
            join = lambda tokens: jnp.concatenate([first, tokens], axis=1)
            angles = jnp.concatenate([jnp.zeros((self.class_tokens, *angles.shape[1:])), angles])
        late = c, angles, jax.tree.map(lambda mask: mask[self.class_start :], masks)
        fields = (self.heads, self.mlp_ratio, self.norm, self.mlp, self.qk_norm, self.attention, self.dtype)
        stacks = [Stack("blocks", self.depth - self.class_start, Block, fields, late, enter=join, picture=picture)]
        if self.class_start:
            stacks.insert(0, Stack("early_blocks", self.class_start, Block, fields, early, picture=picture))

        def output(tokens: jax.Array) -> jax.Array:
            norm = normalisation(self.norm, "final_norm", self.dtype)
            return picture_output(tokens, c, norm, self.patch, x.shape, self.dtype)

        return several_stacks(self, stacks, tokens, output, features, through, picture)


def jit_preset(size: str, num_classes: int = 1000, **options: Any) -> JiT:
    """Builds a JiT of a published size.

    Args:
        size: "B/16" to "H/32": B, L or H, then the side of a patch: 16 for pictures of 256 pixels, 32 for 512.
        num_classes: number of classes; the paper's networks have 1000.
        **options: other fields of `JiT`.

    Raises:
        ValueError: for an unknown size, and as `JiT`.

    Reference: Li & He, 2025, appendix A; the numbers come from the authors' model_jit.py.
    """
    return JiT(num_classes=num_classes, **look_up(PRESETS, size, "size"), **options)
