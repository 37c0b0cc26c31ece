"""Stable Diffusion's U-Nets (1.x, 2.x, XL), by the names of diffusers and of the original repositories.

The original names come from latent diffusion's code (and XL's, which added "label_emb"): `input_blocks`,
`middle_block`, `output_blocks`, with one count for all levels; diffusers counts blocks level by level.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.interchange.family import BLOCKS, DEPTH, MAYBE_SIZE, SIZE, SIZES, array, by_layout
from diffusion.models.interchange.field_table import ABSENT, Field, FieldTable, Follows, Group, zero_or_null
from diffusion.models.interchange.rows import CONV, DENSE_OUT, Row, linear, mlp, stacked, within
from diffusion.published.stable_diffusion.network import ConditionalUNet

ATTENDS = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
MIDDLES = ["UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None]
RESNET = {  # ours: (diffusers', the original)
    "norm_1": ("norm1", "in_layers.0"),
    "conv_1": ("conv1", "in_layers.2"),
    "time": ("time_emb_proj", "emb_layers.1"),
    "norm_2": ("norm2", "out_layers.0"),
    "conv_2": ("conv2", "out_layers.3"),
    "shortcut": ("conv_shortcut", "skip_connection"),
}
ENDS = {
    "time_hidden": ("time_embedding.linear_1", "time_embed.0"),
    "time_out": ("time_embedding.linear_2", "time_embed.2"),
    "strength": ("time_embedding.cond_proj", "time_embed.cond_proj"),  # no known file with original names has it
    "added_hidden": ("add_embedding.linear_1", "label_emb.0.0"),
    "added_out": ("add_embedding.linear_2", "label_emb.0.2"),
    "class_hidden": ("class_embedding.linear_1", "label_emb.0.0"),
    "class_out": ("class_embedding.linear_2", "label_emb.0.2"),
    "conv_in": ("conv_in", "input_blocks.0.0"),
    "norm_out": ("conv_norm_out", "out.0"),
    "conv_out": ("conv_out", "out.2"),
}
LAYOUTS = ("diffusers", "original")


class Place(NamedTuple):
    """One module of the U-Net: its kind, our path, diffusers' name, the original name."""

    kind: str
    ours: str
    theirs: tuple[str, str]
    depth: int = 0  # depth of a transformer
    shortcut: bool = False  # whether a residual block changes its width


def places(module: ConditionalUNet) -> Iterator[Place]:
    """The residual blocks, transformers and changes of size, in the order of the network."""
    levels = len(module.widths)
    layers = module.layers
    widths = module.widths
    before = widths[0]
    skips = [widths[0]]
    for i in range(levels):
        first = 1 + i * (layers + 1)
        for j in range(layers):
            here = (f"down_blocks.{i}", f"input_blocks.{first + j}")
            names = (f"{here[0]}.resnets.{j}", f"{here[1]}.0")
            yield Place("resnet", f"down_{i}_resnet_{j}", names, shortcut=before != widths[i])
            if depths := module.transformers(i, up=False):
                names = (f"{here[0]}.attentions.{j}", f"{here[1]}.1")
                yield Place("transformer", f"down_{i}_transformer_{j}", names, depths[j])
            before = widths[i]
            skips.append(before)
        if i < levels - 1:
            names = (f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{first + layers}.0.op")
            yield Place("conv", f"down_{i}_downsample", names)
            skips.append(before)
    if module.middle or module.bare_middle:
        yield Place("resnet", "middle_resnet_0", ("mid_block.resnets.0", "middle_block.0"))
    if module.middle:
        yield Place("transformer", "middle_transformer", ("mid_block.attentions.0", "middle_block.1"), module.middle)
        yield Place("resnet", "middle_resnet_1", ("mid_block.resnets.1", "middle_block.2"))
    for up, i in enumerate(reversed(range(levels))):
        for j in range(layers + 1):
            here = (f"up_blocks.{up}", f"output_blocks.{up * (layers + 1) + j}")
            names = (f"{here[0]}.resnets.{j}", f"{here[1]}.0")
            yield Place("resnet", f"up_{i}_resnet_{j}", names, shortcut=before + skips.pop() != widths[i])
            if depths := module.transformers(i, up=True):
                names = (f"{here[0]}.attentions.{j}", f"{here[1]}.1")
                yield Place("transformer", f"up_{i}_transformer_{j}", names, depths[j])
            before = widths[i]
        if i:
            names = (f"up_blocks.{up}.upsamplers.0.conv", f"{here[1]}.{2 if module.depths[i] else 1}.conv")
            yield Place("conv", f"up_{i}_upsample", names)


def table(module: ConditionalUNet, layout: str) -> list[Row]:
    """All rows of a U-Net.

    Args:
        module: ours.
        layout: "diffusers" or "original".
    """
    which = LAYOUTS.index(layout)
    parts = {
        "strength": module.strength_width,
        "added": module.added_width,
        "class": module.class_embedding in ("timestep", "projection"),
    }
    absent = [name for name, there in parts.items() if not there]
    rows = []
    if module.text_projection:
        rows += linear("encoder_hid_proj", "text_projection")  # no known file with original names has it
    if module.class_embedding == "table":
        rows.append(Row(("class_embedding.weight", "label_emb.weight")[which], "classes/embedding"))
    for ours, theirs in ENDS.items():
        if ours.split("_")[0] not in absent:
            rows += _layer(theirs[which], ours)
    for place in places(module):
        if place.kind == "conv":
            rows += _layer(place.theirs[which], place.ours, conv=True)
            continue
        inside = _resnet(which, place.shortcut) if place.kind == "resnet" else _transformer(place.depth, module.linear)
        rows += within(inside, f"{place.theirs[which]}.", f"{place.ours}/")
    return rows


def _layer(theirs: str, ours: str, conv: bool = False) -> list[Row]:
    """A convolution, a norm or a dense layer, by our name."""
    if "norm" in ours:
        return [Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")]
    if conv or ours.startswith(("conv", "shortcut")):
        return linear(theirs, ours, CONV)
    return linear(theirs, ours, bias=ours != "strength")


def _resnet(which: int, shortcut: bool) -> list[Row]:
    names = {ours: theirs[which] for ours, theirs in RESNET.items() if shortcut or ours != "shortcut"}
    return [row for ours, theirs in names.items() for row in _layer(theirs, ours)]


def _transformer(depth: int, dense: bool) -> list[Row]:
    """A spatial transformer, which both layouts name alike."""
    rows = _layer("norm", "norm") + _layer("proj_in", "in", not dense) + _layer("proj_out", "out", not dense)
    for i in range(depth):
        block = []
        for n, attention in enumerate(("self_attention", "cross_attention"), start=1):
            block += _layer(f"norm{n}", f"norm_{n}")
            for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
                block += linear(f"attn{n}.to_{letter}", f"{attention}/{name}", bias=False)
            block += linear(f"attn{n}.to_out.0", f"{attention}/out", DENSE_OUT)
        block += _layer("norm3", "norm_3") + mlp("ff.net.0.proj", "ff.net.2", "mlp/")
        rows += within(stacked(block, i), f"transformer_blocks.{i}.", "blocks/")
    return rows


ONE_OR_EACH = schema.either(SIZE, SIZES)
BLOCKS_OR_EACH = schema.either(BLOCKS, schema.several(BLOCKS, 1, 16))
DEPTHS = schema.optional(
    schema.either(DEPTH, schema.several(schema.either(DEPTH, schema.several(DEPTH, 1, 64)), 1, 16))
)
DOWN = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
"""Their default of down_block_types."""


def mirrored(down: Iterable[str]) -> tuple[str, ...]:
    """The kinds of the levels on the way up, from the kinds on the way down."""
    return tuple(kind.replace("Down", "Up") for kind in reversed([*down]))


def _read_levels(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """Our widths, and the depths of the transformers of all levels and of the middle."""
    widths, down, up, middle, depths, up_depths = values.values()
    unknown = [name for name in down if name not in ATTENDS]
    if unknown:
        raise ValueError(
            f"down_block_types has {unknown[0]!r}, which is not supported. Supported: {', '.join(ATTENDS)}."
        )
    if up != mirrored(down):
        raise ValueError(f"up_block_types = {up} must mirror down_block_types: {mirrored(down)}.")
    depths = _depths("transformer_layers_per_block", depths, len(widths))
    up_depths = _depths("reverse_transformer_layers_per_block", up_depths, len(widths))[::-1]
    if any(isinstance(depth, tuple) for depth in depths) and not up_depths:
        raise ValueError(
            f"transformer_layers_per_block = {depths} has lists, so reverse_transformer_layers_per_block must list "
            "the layers of the upward half."
        )
    attended = lambda depths: tuple(depth if ATTENDS[kind] else 0 for depth, kind in zip(depths, down))
    return {
        "widths": widths,
        "depths": attended(depths),
        "up_depths": attended(up_depths),
        "middle": _first(depths[-1]) if middle == MIDDLES[0] else 0,
        "bare_middle": middle == MIDDLES[1],
    }


def _depths(field: str, value: Any, levels: int) -> tuple[int | tuple[int, ...], ...]:
    """The transformers' depths at each level, in the order of the field; () if the config has none."""
    if value is None:
        return ()
    value = (value,) * levels if isinstance(value, int) else value
    numbers = [one for depth in value for one in (depth if isinstance(depth, tuple) else (depth,))]
    if len(value) != levels or not all(isinstance(one, int) and one > 0 for one in numbers):
        raise ValueError(
            f"{field} = {value!r} is not supported. Supported: one number for each of {levels} levels, or for each "
            "level a list with one number for each residual block."
        )
    return value


def _first(depth: int | tuple[int, ...]) -> int:
    return depth[0] if isinstance(depth, tuple) else depth


def _write_levels(module: ConditionalUNet) -> dict[str, Any]:
    if module.depths[-1] and module.middle not in (0, _first(module.depths[-1])):
        raise ValueError(
            f"this class has one depth for the last level and the middle, but this network has {module.depths[-1]} "
            f"and {module.middle}."
        )
    down = tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in module.depths)
    depths = tuple(depth or 1 for depth in module.depths)
    if not module.depths[-1]:
        depths = (*depths[:-1], module.middle or 1)
    real = {depth for depth in (*module.depths, module.middle) if depth}  # a level without has any number
    up_depths = tuple(depth or 1 for depth in reversed(module.up_depths))
    return {
        "block_out_channels": module.widths,
        "down_block_types": down,
        "up_block_types": mirrored(down),
        "mid_block_type": MIDDLES[0] if module.middle else MIDDLES[1] if module.bare_middle else None,
        "transformer_layers_per_block": depths if up_depths or len(real) > 1 else max(real, default=1),
        "reverse_transformer_layers_per_block": up_depths or None,
    }


VECTOR, NUMBERS = "projection_class_embeddings_input_dim", "addition_time_embed_dim"


def _read_condition(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """Our widths of what is embedded beside the time: a class, a vector, the sizes of a picture."""
    added, kind, classes, vector, numbers = values.values()
    if added and kind == "projection":
        raise ValueError(
            "class_embed_type = 'projection' is not supported together with addition_embed_type = 'text_time'."
        )
    needed = {VECTOR: bool(added or kind == "projection"), NUMBERS: bool(added)}
    for field, value in {VECTOR: vector, NUMBERS: numbers}.items():
        if needed[field] != bool(value):
            raise ValueError(
                f"{field} = {value!r} is not supported with addition_embed_type = {added!r} and class_embed_type = "
                f"{kind!r}. Valid: {'the width' if needed[field] else 'null'}."
            )
    ours = {"added_width": vector, "size_width": numbers} if added else {}
    classes = (vector if kind == "projection" else 0 if kind else classes) or 0
    return {**ours, "class_embedding": kind or ("table" if classes else ""), "class_width": classes}


def _write_condition(module: ConditionalUNet) -> dict[str, Any]:
    kind, added = module.class_embedding, module.added_width
    return {
        "addition_embed_type": "text_time" if added else None,
        "class_embed_type": kind if kind in ("timestep", "projection") else None,
        "num_class_embeds": module.class_width if kind == "table" else None,
        VECTOR: (module.class_width if kind == "projection" else added) or None,
        NUMBERS: module.size_width if added else None,
    }


def _one_for_all(theirs: str, ours: str, default: int, valid: schema.Valid = ONE_OR_EACH) -> Field:
    """A field that must be one number for all levels."""

    def read(value: Any, _: Mapping[str, Any]) -> int:
        if not isinstance(value, int):
            raise ValueError(f"{theirs} = {value!r} is not supported. Supported: one number for all levels.")
        return value

    return Field(theirs, ours, default, valid, read)


def _read_text(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """Our width of the text, and the width of a layer on it before the attentions."""
    attended, width, kind = values.values()
    if not isinstance(attended, int):
        raise ValueError(f"cross_attention_dim = {attended!r} is not supported. Supported: one number for all levels.")
    if kind and not width:
        raise ValueError(f"encoder_hid_dim_type = {kind!r} needs encoder_hid_dim, the width of the text.")
    return {"text_width": width or attended, "text_projection": attended if width else 0}


def _write_text(module: ConditionalUNet) -> dict[str, Any]:
    projected = bool(module.text_projection)
    return {
        "cross_attention_dim": module.text_projection or module.text_width,
        "encoder_hid_dim": module.text_width if projected else ABSENT,
        "encoder_hid_dim_type": "text_proj" if projected else ABSENT,
    }


def _read_heads(value: Any, ours: Mapping[str, Any]) -> tuple[int, ...]:
    """The heads of each level, of one number for all levels or one for each."""
    levels = len(ours["widths"])
    value = (value,) * levels if isinstance(value, int) else value
    if len(value) != levels:
        raise ValueError(
            f"attention_head_dim = {value!r} is not supported. Supported: one number for each of {levels} levels."
        )
    return value


CONFIG = FieldTable(
    "UNet2DConditionModel",
    ConditionalUNet,
    (
        Group(
            {
                "block_out_channels": ((320, 640, 1280, 1280), SIZES),
                "down_block_types": (DOWN, None),
                "up_block_types": (mirrored(DOWN), None),
                "mid_block_type": (MIDDLES[0], MIDDLES),
                "transformer_layers_per_block": (1, DEPTHS),
                "reverse_transformer_layers_per_block": (None, DEPTHS),
            },
            _read_levels,
            _write_levels,
        ),
        Group(
            {
                "addition_embed_type": (None, [None, "text_time"]),
                "class_embed_type": (None, [None, "timestep", "projection"]),
                "num_class_embeds": (None, MAYBE_SIZE),
                VECTOR: (None, MAYBE_SIZE),
                NUMBERS: (None, MAYBE_SIZE),
            },
            _read_condition,
            _write_condition,
        ),
        *(
            Follows(field, value, silent=True)
            for field, value in {
                "act_fn": "silu",
                "attention_type": "default",
                "center_input_sample": False,
                "conv_in_kernel": 3,
                "conv_out_kernel": 3,
                "downsample_padding": 1,
                "dropout": 0.0,
                "flip_sin_to_cos": True,
                "freq_shift": 0,
                "mid_block_scale_factor": 1,
                "norm_eps": 1e-5,
                "only_cross_attention": False,
                "resnet_out_scale_factor": 1.0,
                "resnet_time_scale_shift": "default",
                "time_embedding_type": "positional",
            }.items()
        ),
        Field(
            "attention_head_dim",  # a misnomer of theirs
            "heads",
            8,
            ONE_OR_EACH,
            _read_heads,
            write=lambda module: module.heads if len({*module.heads}) > 1 else module.heads[0],
        ),
        Group(
            {
                "cross_attention_dim": (1280, ONE_OR_EACH),
                "encoder_hid_dim": (None, MAYBE_SIZE),
                "encoder_hid_dim_type": (None, [None, "text_proj"]),
            },
            _read_text,
            _write_text,
        ),
        _one_for_all("layers_per_block", "layers", 2, BLOCKS_OR_EACH),
        Field("in_channels", "in_channels", 4),
        Field("out_channels", "out_channels", 4),
        _one_for_all("norm_num_groups", "groups", 32),
        Field("use_linear_projection", "linear", False, read=lambda linear, ours: bool(linear)),
        zero_or_null("time_cond_proj_dim", "strength_width"),
    ),
    # The attention is upcast to float32, as our softmax always is.
    unread=dict.fromkeys(("sample_size", "addition_embed_type_num_heads", "upcast_attention")),
)


def example(module: ConditionalUNet) -> tuple:
    """Arguments of a call."""
    side = 2 ** (len(module.widths) - 1)
    condition = {"text": array(1, 1, module.text_width)}
    if module.strength_width:
        condition["strength"] = array(1)
    if module.added_width:
        numbers = min(6, module.added_width // module.size_width)
        pooled = module.added_width - numbers * module.size_width
        condition |= {"pooled": array(1, pooled), "size": array(1, numbers)}
    if module.class_embedding == "projection":
        condition["pooled"] = array(1, module.class_width)
    elif module.class_embedding:
        condition["label"] = array(1, dtype=jnp.int32)
    return array(1, side, side, module.in_channels), array(1), condition


SD_1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD_2 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
SD_XL = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD_XL_REFINER = {
    **SD_XL,
    "block_out_channels": [384, 768, 1536, 1536],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": 4,
    "attention_head_dim": [6, 12, 24, 24],
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
KOLORS = {**SD_XL, "encoder_hid_dim": 4096, "projection_class_embeddings_input_dim": 5632}
PUBLISHED = {
    "Stable Diffusion 1.x": SD_1,
    "Stable Diffusion 1.x inpainting": {**SD_1, "in_channels": 9},
    "Stable Diffusion 2.x": SD_2,
    "Stable Diffusion 2.x inpainting": {**SD_2, "in_channels": 9},
    "Stable Diffusion XL": SD_XL,
    "Stable Diffusion XL inpainting": {**SD_XL, "in_channels": 9},
    "Stable Diffusion XL refiner": SD_XL_REFINER,
    "Kolors": KOLORS,
}

FAMILY = CONFIG.family(example, by_layout(table, LAYOUTS), published=PUBLISHED, prefixes=("model.diffusion_model.", ""))
FAMILIES = {FAMILY.name: FAMILY}
