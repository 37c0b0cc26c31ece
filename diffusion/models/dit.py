"""DiT: a diffusion transformer over image patches, conditioned by adaptive layer norm (Peebles & Xie, 2023).

     class     t                    x [B, H, W, C]
       |       |                          |
    embedding  sinusoid, MLP      patches, dense, + sin-cos
       +---+---+                          |
         silu: c --> [ norm, shift, scale, attention, gate ]
           |         [ norm, shift, scale, MLP, gate       ]  x depth
           |                              |
           +------> shift, scale -- norm, dense, unpatchify
                                          |
                                 [B, H, W, C or 2 C]

Pictures and features are channels last.
"""

import functools
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers import layer_masks, layout, network_checks
from diffusion.models.layers.blocks import BLOCK_NORMS, MLPS, Block, normalisation
from diffusion.models.layers.choices import look_up
from diffusion.models.layers.condition_embedding import condition_vector, time_and_class
from diffusion.models.layers.conditions import check_label
from diffusion.models.layers.embeddings import LabelEmbedding, TimestepEmbedding, rope_angles
from diffusion.models.layers.joint_conditions import check_strength
from diffusion.models.layers.network_bases import Backbone, Clock, Condition, Numbers, Through
from diffusion.models.layers.patches import embedded_patches, picture_output
from diffusion.models.layers.stacks import Layered, single_stack

SIZES = {  # width, depth, heads: table 1 of the paper
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}
PRESETS = {
    f"{size}/{patch}": {"patch": patch, "width": width, "depth": depth, "heads": heads}
    for size, (width, depth, heads) in SIZES.items()
    for patch in (2, 4, 8)
}


class DiT(Layered, Backbone):
    """The diffusion transformer: `apply(variables, x, t, condition)` is a `Network`.

    Parameters are float32 whatever the compute type, and so is the output. Layers are scanned: the parameters of all
    blocks are stacked along a first axis of length `depth`.

    Attributes:
        patch: side of a patch in pixels; it divides height and width.
        width: number of features of a token; 4 divides it, and so does `heads`.
        depth: number of blocks.
        heads: number of attention heads.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for an unconditional network.
        mlp_ratio: hidden features of the MLP over `width`.
        learn_sigma: whether the output has 2 C channels, the last C for the variance (Nichol & Dhariwal, 2021).
        norm: "layernorm" (the paper), "rmsnorm", or "scaled_rmsnorm", whose scales are learned.
        mlp: "gelu" (the paper) or "swiglu".
        positions: "sincos" (the paper: fixed, added to the tokens), "rope" (rotary, in every attention), or
            "sincos_rope", both.
        qk_norm: whether queries and keys are RMS-normalised, with a learned scale.
        remat: parts to compute again in the backward pass to save memory: "none"; "elementwise", all but products and
            attention; "dots", attention too; "narrow", all but fused attention and the products that are added to the
            tokens; or "full".
        unroll: number of blocks in one iteration of the scan; 0 for the number that `layers.scan.turn` chooses.
        times: number of times that the network receives as its clock: 1, or 2 for a network of two times (MeanFlow,
            shortcut models); the sum of their embeddings conditions it.
        strength: whether the network receives the scale of the guidance that it imitates (1 for none), as the entry
            "strength" [B] of its condition; see `objectives.latent_consistency_distillation`.
        interval: whether the network also receives the first and the last time of the guidance, as the entry "interval"
            [B, 2]; only with `strength`.
        frequency_shift: shift of the frequencies of the time's features, 0 (the paper) or 1, see `sinusoid`.
        own_embeddings: whether every block has separate embeddings of the time and the class, and the last layers use
            the first block's, as in diffusers; in the paper all layers share one pair.
        shape: (H, W, C) of the images that files of other libraries state for the network, which accepts other H and W
            too; None for the shape of the images at initialisation. The positions of patches are whole numbers at every
            size, as in the paper's networks for 256 and 512 pixels; diffusers scales them to the range of `shape`.

    Reference: Peebles & Xie, "Scalable Diffusion Models with Transformers", 2023.
    """

    patch: int
    width: int
    depth: int
    heads: int
    num_classes: int
    mlp_ratio: float = 4.0
    learn_sigma: bool = False
    norm: str = "layernorm"
    mlp: str = "gelu"
    positions: str = "sincos"
    qk_norm: bool = False
    unroll: int = 0
    times: int = 1
    strength: bool = False
    interval: bool = False
    frequency_shift: int = 0
    own_embeddings: bool = False
    shape: tuple[int, int, int] | None = None
    ranks = (3,)
    layer_masks = ("skip", "identity", "borrow")
    reuses = ("blocks",)
    positive = ("patch", "width", "depth", "heads", "mlp_ratio", "times")
    choices = Backbone.choices | {"norm": BLOCK_NORMS, "mlp": MLPS, "positions": ("sincos", "rope", "sincos_rope")}

    def check_fields(self) -> None:
        if self.unroll < 0:
            raise ValueError(
                f"unroll={self.unroll} must be 0 (chosen for the backend), or the number of blocks in one iteration"
            )
        network_checks.classes(self)
        if self.interval and not self.strength:
            raise ValueError("interval=True needs strength=True, the guidance that acts in it")
        if self.frequency_shift not in (0, 1):
            raise ValueError(f"frequency_shift={self.frequency_shift} must be 0 or 1")
        network_checks.heads(self, 1 if self.positions == "sincos" else 4)
        if self.positions != "rope" and self.width % 4:
            raise ValueError(f"width={self.width} must be a multiple of 4, for 2-D sin-cos positions")

    @nn.compact
    def __call__(
        self, x: jax.Array, t: Clock, condition: Condition = None, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: images [B, H, W, C].
            t: the network's clock, [B] or [], float32 or wider; a tuple of `times` clocks if `times` is more than 1.
            condition: class labels int [B] in 0 .. num_classes, or None if num_classes is 0; or a dict of "label", the
                layer masks (`diffusion.models.layers.layer_masks`), and "strength" and "interval" if it receives them.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C], or [B, H, W, 2 C] with `learn_sigma`.
        """
        guidance: dict[str, jax.Array] = {}
        if self.strength:
            condition, guidance = self._without_guidance(condition, x.shape[0])
        label, masks = layer_masks.parted(condition, x.shape[0], self.depth)
        clocks = t if isinstance(t, tuple) else (t,)
        self._check(x, clocks, label)
        batch, height, width, _ = x.shape
        rows = height // self.patch
        columns = width // self.patch

        tokens = embedded_patches(x, self.patch, self.width, self.dtype, self.positions != "rope")
        angles = None
        if self.positions != "sincos":
            angles = jnp.asarray(rope_angles(rows, columns, self.width // self.heads))

        wrapped: Any = functools.partial(
            nn.vmap,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=cast(Any, None),
            axis_size=self.depth,
        )
        if not self.own_embeddings:
            wrapped = lambda module: module
        times = functools.partial(wrapped(TimestepEmbedding), shift=self.frequency_shift)
        c, class_vector = time_and_class(self, t, label, batch, times, wrapped(LabelEmbedding))
        for name, number in guidance.items():
            c = c + wrapped(TimestepEmbedding)(self.width, self.dtype, name=f"{name}_embedding")(1000 * number)
        c = condition_vector(c, class_vector)

        tokens = layout.split(tokens, "batch", "tokens", None)

        axes = (0 if self.own_embeddings else nn.broadcast, nn.broadcast, 0)
        fields = (self.heads, self.mlp_ratio, self.norm, self.mlp, self.qk_norm, self.attention, self.dtype)
        arguments = (c, angles, masks)

        def output(tokens):
            norm = normalisation(self.norm, "final_norm", self.dtype)
            first = c[0] if self.own_embeddings else c
            return picture_output(tokens, first, norm, self.patch, x.shape, self.dtype, self.learn_sigma)

        return single_stack(self, Block, fields, tokens, arguments, axes, output, features, through, unroll=self.unroll)

    def _without_guidance(self, condition, batch):
        """(the condition without its guidance, the guidance's numbers [B] by name: "strength" is the scale - 1)."""
        entries = {"strength": "[B]"} | ({"interval": "[B, 2]"} if self.interval else {})
        if not isinstance(condition, Mapping) or not set(entries) <= set(condition):
            needed = " and ".join(f'"{name}" {shape}' for name, shape in entries.items())
            raise ValueError(
                f'this DiT receives the strength of guidance, so its condition must be a dict with "label" and {needed}'
            )
        rest = {name: leaf for name, leaf in condition.items() if name not in entries}
        check_strength(batch, condition)
        guidance = {"strength": condition["strength"] - 1}
        if self.interval:
            interval = condition["interval"]
            if interval.shape != (batch, 2):
                raise ValueError(f"the condition's 'interval' must be [B, 2] = ({batch}, 2); got {interval.shape}")
            guidance |= {"start": interval[:, 0], "end": interval[:, 1]}
        return rest, guidance

    def _check(self, x, clocks, label):
        network_checks.images(self, x)
        network_checks.own_times(self, x, *clocks)
        check_label(label, x.shape[0], self.num_classes)


def dit_preset(size: str, num_classes: int, **options: Any) -> DiT:
    """Builds a DiT of a published size.

    Args:
        size: "S/2" to "XL/8": S, B, L or XL of the paper's table 1, then the side of a patch (2, 4 or 8).
        num_classes: number of classes, 0 for an unconditional network; the paper's networks have 1000.
        **options: other fields of `DiT`; the paper's networks have learn_sigma=True.

    Raises:
        ValueError: if the size is unknown, or `DiT` refuses a field.

    Reference: Peebles & Xie, 2023, table 1.
    """
    return DiT(num_classes=num_classes, **look_up(PRESETS, size, "size"), **options)


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Refuses class labels for which a DiT has no embedding; call it with concrete labels, before anything is compiled.

    Args:
        labels: integers of any shape.
        num_classes: number of classes of the network; label `num_classes` is the null class.

    Raises:
        ValueError: if a label lies outside 0 .. num_classes, or is not an integer.
    """
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"class labels are integers; got dtype {labels.dtype}")
    outside = labels[(labels < 0) | (labels > num_classes)]
    if outside.size:
        raise ValueError(
            f"class label {outside.flat[0]} is out of range. Valid: 0 .. {num_classes - 1}, "
            f"and {num_classes} for the null class"
        )
