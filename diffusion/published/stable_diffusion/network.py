"""The cross-attention U-Net of Stable Diffusion 1, 2 and XL: residual blocks, and transformers that read the prompt.

    x_t -- conv_in ------------------------------------------------- conv_out(silu(norm_out)) -- output
              |            skips, one after each box                      |
           level 0   n [ResnetBlock, SpatialTransformer] --> (n + 1) [ResnetBlock, SpatialTransformer]
              | / 2                                                       | x 2
           level 1   ...                                  -->            ...
              | / 2                                                       | x 2
           level L-1 ...                                  -->            ...
              +------ middle: ResnetBlock, SpatialTransformer, ResnetBlock +

    t (and size, pooled, strength) -> one embedding -> every ResnetBlock;   text -> every SpatialTransformer

Pictures and features are channels last.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays.not_a_number import table_rows
from diffusion.arrays.promotion import promoted
from diffusion.models.layers import conditions, extra_attention, layer_masks, network_checks
from diffusion.models.layers.attention import mask_bias
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.block_reuse import Deep, taken_by
from diffusion.models.layers.convolutions import GroupNorm, ResnetBlock, conv, upsample
from diffusion.models.layers.embeddings import sinusoid
from diffusion.models.layers.extra_attention import ExtraLayer
from diffusion.models.layers.network_bases import Backbone, Numbers
from diffusion.models.layers.scan import rematerialised
from diffusion.models.layers.spatial_transformer import SpatialTransformer

EPSILON = 1e-5  # epsilon of the norms of residual blocks
# The entry of the condition that is embedded like a class, and added to the time's embedding.
CLASS_EMBEDDINGS = {"": (), "timestep": ("label",), "projection": ("pooled",), "table": ("label",)}


class ConditionalUNet(Backbone):
    """The U-Net of latent diffusion, conditional on a prompt: `apply(variables, x, t, condition)` is a `Network`.

    Parameters are float32 whatever the compute type, and so is the output. The transformers' blocks are scanned.

    The condition is a dict (`models.layers.conditions`) with "text" [B, M, text_width] and
    - "text_mask", which is optional;
    - "pooled" and "size" if `added_width`, "strength" if `strength_width`;
    - "label" or "pooled" as `class_embedding` selects;
    - for adapters, each optional: "residuals", as `residual_shapes` lists them; "level_residuals", as `level_shapes`
      does, with or without the middle's; "extra", image prompts (`layers.extra_attention`) for the cross-attentions
      that `extra_layers` lists; and "identity" Bool [B, transformer_blocks], blocks in which a pixel attends only to
      itself (`layers.layer_masks`).

    Attributes:
        widths: channels of each level, the finest first.
        depths: transformer blocks after each residual block of a level; 0 where it has no attention; a tuple, one for
            each residual block, where they differ.
        up_depths: the same on the way up, in the order of `widths`, with tuples in the order of computation; () for
            `depths` again, which then has no tuples.
        heads: attention heads of each level.
        text_width: features of a token of the prompt.
        layers: residual blocks of a level on the way down; one more on the way up.
        middle: transformer blocks in the middle; 0 for a network that has no middle (BK-SDM's small ones).
        bare_middle: whether the middle is a single residual block (SSD-1B); needs `middle=0`.
        in_channels: C of the input: 4, or 9 with the channels of a mask and a masked image (inpainting).
        out_channels: number of channels of the output.
        groups: number of groups of the group norms, a divisor of the widths.
        linear: whether the transformers' projections are dense, see `SpatialTransformer`.
        added_width: numbers that "pooled" and the sinusoids of "size" make together (XL: 1280 + 6 * 256); 0 for a
            network that does not receive them.
        size_width: sinusoids of each number in "size".
        strength_width: sinusoids of "strength", the scale of the guidance (1: none) that a distilled network imitates;
            0 for a network that does not receive it.
        class_embedding: an addition to the embedding of the time: "" none; "timestep" two layers on the sinusoids of
            "label" [B], any number; "projection" two layers on "pooled" [B, class_width] (unCLIP); "table" a row for
            "label" int [B] in 0 .. class_width - 1 (the level of noise of the x4 upscaler).
        class_width: width of the input of `class_embedding`; 0 for "" and "timestep".
        text_projection: width of a dense layer on the text before the attentions (Kolors); 0 for none.
        remat: parts to compute again in the backward pass, in residual and transformer blocks alike: "none", "full", or
            "dots" (all but matmuls).

    Reference: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022; Podell et al.,
    "SDXL", 2023, sections 2.1 and 2.2; Meng et al., "On Distillation of Guided Diffusion Models", 2023, section 3.
    """

    widths: tuple[int, ...]
    depths: tuple[int | tuple[int, ...], ...]
    heads: tuple[int, ...]
    text_width: int
    layers: int = 2
    middle: int = 1
    in_channels: int = 4
    out_channels: int = 4
    groups: int = 32
    linear: bool = False
    added_width: int = 0
    size_width: int = 256
    strength_width: int = 0
    up_depths: tuple[int | tuple[int, ...], ...] = ()
    bare_middle: bool = False
    class_embedding: str = ""
    class_width: int = 0
    text_projection: int = 0
    ranks = (3,)
    reuses = ("deep",)
    positive = ("text_width", "layers", "in_channels", "out_channels", "groups", "size_width")
    choices = Backbone.choices | {"class_embedding": CLASS_EMBEDDINGS}

    def check_fields(self) -> None:
        if not len(self.widths) == len(self.depths) == len(self.heads) > 0:
            raise ValueError(
                f"widths={self.widths}, depths={self.depths} and heads={self.heads} must each have one number for "
                "each level"
            )
        if min(self.middle, self.added_width, self.strength_width, self.text_projection) < 0:
            raise ValueError("middle, added_width, strength_width and text_projection must be 0 (none) or positive")
        if self.bare_middle and self.middle:
            raise ValueError(
                f"bare_middle=True means that there is no transformer in the middle; middle={self.middle} must then "
                "be 0"
            )
        self._check_depths()
        if (self.class_width > 0) != (self.class_embedding in ("projection", "table")) or self.class_width < 0:
            raise ValueError(
                f"class_width={self.class_width} must be positive for class_embedding='projection' and "
                f"'table', and 0 for others; it is {self.class_embedding!r}"
            )
        if self.class_embedding == "projection" and self.added_width:
            raise ValueError(
                f"class_embedding='projection' and added_width={self.added_width} both read 'pooled'; set one of them"
            )
        for width, heads in zip(self.widths, self.heads):
            if width % self.groups or width % heads:
                raise ValueError(
                    f"groups={self.groups} and heads={heads} must divide {width}, the width of their level"
                )
        for field in ("size_width", "strength_width"):
            if getattr(self, field) % 2:
                raise ValueError(
                    f"{field}={getattr(self, field)} must be even, because half of the features are sines and half "
                    "cosines"
                )

    def _check_depths(self):
        """One number for each level, or one for each of its residual blocks, in both directions."""
        if self.up_depths and len(self.up_depths) != len(self.depths):
            raise ValueError(
                f"up_depths={self.up_depths} has {len(self.up_depths)} entries, but there are {len(self.depths)} "
                "levels; set one for each, or () to take depths"
            )
        ways = [("depths", self.depths, self.layers)]
        ways += [("up_depths", self.up_depths or self.depths, self.layers + 1)]
        for field, depths, blocks in ways:
            for depth, down in zip(depths, self.depths):
                per_block = depth if isinstance(depth, tuple) else (depth,) * blocks
                if len(per_block) != blocks or min(per_block) < 0 or (0 in per_block and per_block != (0,) * blocks):
                    raise ValueError(
                        f"{field}={depths}: {depth} must be 0 (none), positive, or a positive number for each of the "
                        f"{blocks} residual blocks"
                    )
                if (down == 0) != (depth == 0):
                    raise ValueError(
                        f"depths={self.depths} and up_depths={self.up_depths} must have attention at the same levels"
                    )

    def transformers(self, level: int, up: bool) -> tuple[int, ...]:
        """Transformer blocks after each residual block of a level, down or up; () where it has no attention."""
        depth = self.up_depths[level] if up and self.up_depths else self.depths[level]
        if isinstance(depth, tuple):
            return depth
        return (depth,) * (self.layers + up) if depth else ()

    def extra_layers(self, height: int, width: int) -> tuple[ExtraLayer, ...]:
        """The widths and grids of the cross-attentions, for image prompts ("extra").

        They have the order of the network: down, middle, up; block by block within a transformer.

        Args:
            height, width: sides of x.
        """
        last = len(self.widths) - 1
        at = lambda level, number: [ExtraLayer(self.widths[level], height >> level, width >> level)] * number
        down = [layer for i in range(last + 1) for layer in at(i, sum(self.transformers(i, up=False)))]
        up = [layer for i in range(last, -1, -1) for layer in at(i, sum(self.transformers(i, up=True)))]
        return (*down, *at(last, self.middle), *up)

    @property
    def transformer_blocks(self) -> int:
        """Number of transformer blocks, which layer masks count in the order of the network: down, middle, up."""
        return len(self.extra_layers(0, 0))

    @property
    def middle_blocks(self) -> range:
        """The numbers of the transformer blocks in the middle."""
        first = sum(sum(self.transformers(i, up=False)) for i in range(len(self.widths)))
        return range(first, first + self.middle)

    @property
    def feature_blocks(self) -> int:
        """Number of blocks whose features a call can return."""
        return len(self.widths) * (2 * self.layers + 1) + 1

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        condition: dict,
        features: Numbers = None,
        branch: int | None = None,
        deep: jax.Array | None = None,
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: [B, H, W, in_channels]; 2^(levels - 1) divides H and W.
            t: the network's clock, [B] or [], float32 or wider; 0 .. 999 for the published networks.
            condition: the entries above, by name.
            branch: a skip connection, 0 the outermost; the call also returns the input of the block that takes it.
            deep: the deep features of an earlier call, with which nothing deeper than the branch runs; None: all runs.
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, H, W, out_channels]; with `branch`: (that, `block_reuse.Deep`).
        """
        inputs = self.checked(x, t, condition)
        recorded = Features(features, self.feature_blocks)
        layers = Layers(self, jnp.broadcast_to(t, x.shape[:1]), inputs, recorded)
        first = taken_by(branch, deep, len(self.widths) * (self.layers + 1))
        h, skips = layers.down(x, number=None if deep is None else (branch or 0) + 1)
        if inputs["residuals"]:
            skips = [skip + more.astype(skip.dtype) for skip, more in zip(skips, inputs["residuals"])]
        if deep is None:
            h = layers.middle(h)
            if len(inputs["level_residuals"] or ()) > len(self.widths):
                h = h + inputs["level_residuals"][-1].astype(h.dtype)
            recorded.block(h)
            if inputs["residuals"]:
                h = h + inputs["residuals"][-1].astype(h.dtype)
        else:
            layers.pass_over((self.middle,) * (self.middle > 0), 0)
        h, deep = layers.up(h, skips, first, deep)
        h = nn.silu(GroupNorm(self.groups, EPSILON, name="norm_out")(h))
        # In float32, since bfloat16 would round the output to 8 bits.
        out = conv(self.out_channels, zero=True, dtype="float32", name="conv_out")
        output = out(h.astype(jnp.float32))
        return recorded.beside(output) if branch is None else (output, Deep(deep, recorded.done, self.feature_blocks))

    def checked(self, x: jax.Array, t: jax.Array, condition: dict) -> dict:
        """The entries of a condition, after checks of all shapes; arguments and errors as in the call."""
        required = (
            "text",
            *("pooled", "size") * (self.added_width > 0),
            *("strength",) * (self.strength_width > 0),
            *CLASS_EMBEDDINGS[self.class_embedding],
        )
        inputs = conditions.entries(
            condition, required, ("text_mask", "residuals", "level_residuals", "extra", "identity")
        )
        if x.ndim != 4 or x.shape[-1] != self.in_channels:
            raise ValueError(f"this U-Net takes images [B, H, W, {self.in_channels}]; got shape {x.shape}")
        factor = 2 ** (len(self.widths) - 1)
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"height {x.shape[1]} and width {x.shape[2]} must be multiples of {factor}: the U-Net "
                f"halves them {len(self.widths) - 1} times"
            )
        network_checks.times(self, x, t)
        batch = x.shape[0]
        text = inputs["text"].shape
        if len(text) != 3 or text[0] != batch or text[2] != self.text_width:
            raise ValueError(f"'text' must be [B, M, E] = [{batch}, M, {self.text_width}]; got shape {text}")
        if inputs["text_mask"] is not None and inputs["text_mask"].shape != text[:2]:
            raise ValueError(f"'text_mask' must be [B, M] = {text[:2]}; got shape {inputs['text_mask'].shape}")
        if self.strength_width and inputs["strength"].shape != (batch,):
            raise ValueError(f"'strength' must be [B] = ({batch},); got shape {inputs['strength'].shape}")
        if self.added_width:
            pooled = inputs["pooled"].shape
            size = inputs["size"].shape
            if not (
                len(pooled) == len(size) == 2
                and pooled[0] == size[0] == batch
                and pooled[1] + size[1] * self.size_width == self.added_width
            ):
                raise ValueError(
                    f"'pooled' [B, P] and 'size' [B, n] must have B = {batch} and P + {self.size_width} n = "
                    f"{self.added_width}; got shapes {pooled} and {size}"
                )
        if self.class_embedding == "projection" and inputs["pooled"].shape != (batch, self.class_width):
            raise ValueError(
                f"'pooled' must be [B, P] = ({batch}, {self.class_width}); got shape {inputs['pooled'].shape}"
            )
        if "label" in CLASS_EMBEDDINGS[self.class_embedding]:
            integers = jnp.issubdtype(jnp.result_type(inputs["label"]), jnp.integer)
            if jnp.shape(inputs["label"]) != (batch,) or not (integers or self.class_embedding == "timestep"):
                raise ValueError(
                    f"'label' must be {'int ' * (self.class_embedding == 'table')}[B] = ({batch},); got shape "
                    f"{jnp.shape(inputs['label'])}, dtype {jnp.result_type(inputs['label'])}"
                )
        if inputs["residuals"]:
            _same_shapes("residuals", inputs["residuals"], [(batch, *s) for s in residual_shapes(self, *x.shape[1:3])])
        if inputs["level_residuals"]:
            shapes = [(batch, *s) for s in level_shapes(self, *x.shape[1:3])]
            level_shapes_given = shapes if len(inputs["level_residuals"]) == len(shapes) else shapes[:-1]
            _same_shapes("level_residuals", inputs["level_residuals"], level_shapes_given)
        extra_attention.check(inputs["extra"], batch, self.extra_layers(*x.shape[1:3]))
        if inputs["identity"] is not None:
            layer_masks.parted({"identity": inputs["identity"]}, batch, self.transformer_blocks)
        return inputs


class Layers:
    """The three parts of a U-Net, built inside the current module: a U-Net, or a ControlNet with its fields.

    Attributes:
        unet: the U-Net whose fields describe the layers.
        inputs: the entries of the condition.
        embedding: embedding of the clock and the condition, for the residual blocks, [B, 4 widths[0]].
        seen: collects the features of the blocks on the way down and up.
    """

    def __init__(self, unet: ConditionalUNet, t: jax.Array, inputs: dict, seen: Features | None = None):
        self.unet, self.inputs = unet, inputs
        self.seen = seen or Features(None, 0)
        self.text = inputs["text"].astype(unet.dtype)
        if unet.text_projection:
            self.text = nn.Dense(unet.text_projection, dtype=unet.dtype, name="text_projection")(self.text)
        self.bias = None if inputs["text_mask"] is None else mask_bias(inputs["text_mask"])
        self.attended = 0  # cross-attentions so far
        self.embedding = self._embedding(t)

    def down(
        self, x: jax.Array, hint: jax.Array | None = None, number: int | None = None
    ) -> tuple[jax.Array, list[jax.Array]]:
        """The way down, (its end, all skips), or as far as the first `number` of them need.

        A hint [B, H, W, widths[0]] is added after the first convolution; the "level_residuals" after the last block of
        each level, or, where the level has no attention, after its change of size.
        """
        unet = self.unet
        levels = self.inputs["level_residuals"] if hint is None else None
        added = lambda h, i: h + levels[i].astype(h.dtype) if levels else h
        h = conv(unet.widths[0], dtype=unet.dtype, name="conv_in")(x)
        h = h if hint is None else h + hint
        skips = [h]
        for i, width in enumerate(unet.widths):
            for j in range(unet.layers):
                if len(skips) == number:
                    self.pass_over(unet.transformers(i, up=False), j)
                    continue
                h = self._resnet(h, i, f"down_{i}_resnet_{j}")
                h = self._transformer(h, unet.transformers(i, up=False), j, i, f"down_{i}_transformer_{j}")
                if j == unet.layers - 1 and not _ends_smaller(unet, i):
                    h = added(h, i)
                self.seen.block(h)
                skips.append(h)
            if i < len(unet.widths) - 1 and len(skips) != number:
                h = conv(width, stride=2, dtype=unet.dtype, name=f"down_{i}_downsample")(h)
                h = added(h, i) if _ends_smaller(unet, i) else h
                skips.append(h)
        return h, skips

    def middle(self, h: jax.Array) -> jax.Array:
        """The middle; h itself in a network without one."""
        last = len(self.unet.widths) - 1
        if self.unet.bare_middle:
            return self._resnet(h, last, "middle_resnet_0")
        if not self.unet.middle:
            return h
        h = self._resnet(h, last, "middle_resnet_0")
        h = self._transformer(h, (self.unet.middle,), 0, last, "middle_transformer")
        return self._resnet(h, last, "middle_resnet_1")

    def up(
        self, h: jax.Array, skips: list[jax.Array], first: int = 0, deep: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The way up, which takes the skips in reverse order: (its end, what enters its block `first`).

        With `deep`, which enters that block, the blocks before it do not run.
        """
        unet = self.unet
        skips = list(skips)
        start = h if deep is None else deep
        done = 0
        for i, width in reversed(list(enumerate(unet.widths))):
            for j in range(unet.layers + 1):
                if done == first:
                    h = start = h if deep is None else deep
                done += 1
                if deep is not None and done <= first:
                    self.pass_over(unet.transformers(i, up=True), j)
                    continue
                h = self._resnet(jnp.concatenate([h, skips.pop()], axis=-1), i, f"up_{i}_resnet_{j}")
                h = self._transformer(h, unet.transformers(i, up=True), j, i, f"up_{i}_transformer_{j}")
                self.seen.block(h)
            if i and (deep is None or done > first):
                h = conv(width, dtype=unet.dtype, name=f"up_{i}_upsample")(upsample(h))
        return h, start

    def pass_over(self, depths: tuple[int, ...], j: int) -> None:
        """Leaves out a transformer and the image prompts of its blocks, so that later blocks receive their own."""
        self.attended += depths[j] if depths else 0

    def _resnet(self, h: jax.Array, level: int, name: str) -> jax.Array:
        unet = self.unet
        block = rematerialised(ResnetBlock, unet.remat)
        return block(unet.widths[level], unet.groups, EPSILON, dtype=unet.dtype, name=name)(h, self.embedding)

    def _transformer(self, h: jax.Array, depths: tuple[int, ...], j: int, level: int, name: str) -> jax.Array:
        if not depths:
            return h
        unet = self.unet
        depth = depths[j]
        first, last = self.attended, self.attended + depth
        pairs = extra_attention.stacked(self.inputs["extra"], first, last) if self.inputs["extra"] else None
        identity = self.inputs["identity"]
        identity = None if identity is None else identity[:, first:last].T
        self.attended = last
        module = SpatialTransformer(
            depth, unet.heads[level], unet.groups, unet.linear, unet.attention, unet.remat, unet.dtype, name=name
        )
        return module(h, self.text, self.bias, pairs, identity)

    def _embedding(self, t: jax.Array) -> jax.Array:
        unet, inputs = self.unet, self.inputs
        dense = lambda width, name, bias=True: nn.Dense(width, bias, dtype=unet.dtype, name=name)

        def two_layers(features: jax.Array, name: str) -> jax.Array:
            h = nn.silu(dense(4 * unet.widths[0], f"{name}_hidden")(features))
            return dense(4 * unet.widths[0], f"{name}_out")(h)

        features = sinusoid(t, unet.widths[0])
        if unet.strength_width:
            strength = strength_features(inputs["strength"], unet.strength_width)
            features = features + dense(unet.widths[0], "strength", bias=False)(strength)
        out = two_layers(features, "time")
        if unet.added_width:
            size = sinusoid(inputs["size"].reshape(-1), unet.size_width).reshape(t.shape[0], -1)
            out = out + two_layers(jnp.concatenate([inputs["pooled"].astype(size.dtype), size], axis=-1), "added")
        if unet.class_embedding == "timestep":
            out = out + two_layers(sinusoid(inputs["label"].astype(features.dtype), unet.widths[0]), "class")
        elif unet.class_embedding == "projection":
            out = out + two_layers(inputs["pooled"], "class")
        elif unet.class_embedding == "table":
            table = nn.Embed(unet.class_width, 4 * unet.widths[0], name="classes").embedding
            out = out + table_rows(table, inputs["label"]).astype(out.dtype)
        return out


def strength_features(strength: jax.Array, size: int) -> jax.Array:
    """Sinusoids of 1000 (w - 1), w the scale of `guidance.classifier_free`: [B] -> [B, size], sines first.

    Reference: Luo et al., "Latent Consistency Models", 2023, section 4.2, whose strength is one less than ours.
    """
    strength = strength.astype(promoted(strength.dtype))
    return sinusoid(1000 * (strength - 1), size, shift=1, sines_first=True)


def residual_shapes(module: ConditionalUNet, height: int, width: int) -> tuple[tuple[int, int, int], ...]:
    """Shapes [H, W, C] of the condition's "residuals": one for each skip, in order, then one for the middle.

    Args:
        module: the U-Net.
        height, width: sides of its input.
    """
    shapes = [(height, width, module.widths[0])]
    for i, channels in enumerate(module.widths):
        shapes += [(height, width, channels)] * module.layers
        if i < len(module.widths) - 1:
            height = height // 2
            width = width // 2
            shapes.append((height, width, channels))
    return (*shapes, shapes[-1])


def level_shapes(module: ConditionalUNet, height: int, width: int) -> tuple[tuple[int, int, int], ...]:
    """Shapes [H, W, C] of the condition's "level_residuals": one for each level, and one for the middle.

    Args:
        module: the U-Net.
        height, width: sides of its input.
    """
    shapes = []
    for i, channels in enumerate(module.widths):
        after = 2 if _ends_smaller(module, i) else 1
        shapes.append((height // after, width // after, channels))
        if i < len(module.widths) - 1:
            height = height // 2
            width = width // 2
    return (*shapes, (height, width, module.widths[-1]))


def _ends_smaller(module: ConditionalUNet, level: int) -> bool:
    """Whether a level, as T2I-Adapter knows it, ends with its change of size: one without attention."""
    return level < len(module.widths) - 1 and not module.transformers(level, up=False)


def _same_shapes(name: str, arrays: tuple, expected: list) -> None:
    if len(arrays) != len(expected):
        raise ValueError(f"{name!r} must have {len(expected)} entries in this U-Net; got {len(arrays)}")
    for i, (entry, shape) in enumerate(zip(arrays, expected)):
        entry_shape = jax.tree.map(jnp.shape, entry)
        entry_shape = tuple(entry_shape) if isinstance(entry_shape, list) else entry_shape
        if entry_shape != shape:
            raise ValueError(f"{name!r}: entry {i} must have the shape {shape}; got {entry_shape}")


MODELS = {"conditional_unet": ConditionalUNet}  # by its name in configs
