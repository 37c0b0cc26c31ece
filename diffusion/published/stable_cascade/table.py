"""Stable Cascade's U-Net by the names of diffusers' StableCascadeUNet, and by the names in its authors' files."""

from collections.abc import Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.interchange.convnext_tables import RESPONSE
from diffusion.models.interchange.family import BLOCKS, SIZES, array, by_layout
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Follows, Group, zero_or_null
from diffusion.models.interchange.rows import DENSE_OUT, POINT, Layout, Row, conv, cut, linear, stacked, within
from diffusion.published.stable_cascade.network import StableCascade

NAME = "StableCascadeUNet"
PARTS = ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")  # of a layer; the last by choice
TIMES = ("sca", "crp")  # their names of the times after the first
# A transposed convolution: theirs [in, out, H, W], ours [H, W, in, out] with both axes of the picture reversed.
TRANSPOSED = Layout(lambda a, shape: a.transpose(2, 3, 0, 1)[::-1, ::-1], lambda a: a[::-1, ::-1].transpose(2, 3, 0, 1))
EACH_LEVEL = schema.several(BLOCKS, 1, 16)


def _layer(module: StableCascade, level: int, original: bool) -> list[list[Row]]:
    """The rows of each block of a layer."""
    residual = [
        *conv("depthwise", "depthwise"),
        *linear("channelwise.0", "hidden"),
        Row("channelwise.2.gamma", "response/scale", RESPONSE),
        Row("channelwise.2.beta", "response/bias", RESPONSE),
        *linear("channelwise.4", "out"),
    ]
    mappers = ("mapper", *(f"mapper_{name}" for name in TIMES))[: module.times]
    blocks = [residual, [row for i, name in enumerate(mappers) for row in linear(name, f"time_{i}")]]
    if not module.heads[level]:
        return blocks
    attention = linear("kv_mapper.1", "context")
    parts = {f"attention.to_{part[0]}": f"attention/{part}" for part in ("query", "key", "value")}
    if original:
        attention += cut("attention.attn.in_proj_", parts.values(), module.widths[level])
    else:
        attention += [row for theirs, ours in parts.items() for row in linear(theirs, ours)]
    attention += linear("attention.attn.out_proj" if original else "attention.to_out.0", "attention/out", DENSE_OUT)
    return [*blocks, attention]


def _numbered(blocks: list[list[Row]], layer: int, theirs: str, ours: str) -> list[Row]:
    """The rows of one layer, whose blocks they number from one layer to the next."""
    numbered = [within(rows, f"{theirs}{layer * len(blocks) + i}.", ours) for i, rows in enumerate(blocks)]
    return [row for rows in numbered for row in rows]


def _levels(module: StableCascade, original: bool) -> list[Row]:
    """The rows of all levels, down and up."""
    rows, last = [], len(module.widths) - 1
    for i in range(last + 1):
        blocks, up = _layer(module, i, original), last - i
        for layer in range(module.layers[i]):
            rows += stacked(_numbered(blocks, layer, f"down_blocks.{i}.", f"down_{i}/"), layer)
        joint = int(i < last)
        rows += _numbered(blocks, 0, f"up_blocks.{up}.", f"up_{i}_first/") * joint
        for layer in range(joint, module.up_layers[i]):
            rows += stacked(_numbered(blocks, layer, f"up_blocks.{up}.", f"up_{i}/"), layer - joint)
        for turn in range(1, module.repeats[i]):
            rows += linear(f"down_repeat_mappers.{i}.{turn - 1}", f"down_{i}_repeat_{turn}", POINT)
        for turn in range(1, module.up_repeats[i]):
            rows += linear(f"up_repeat_mappers.{up}.{turn - 1}", f"up_{i}_repeat_{turn}", POINT)
        if i:
            rows += _resizing(module.resizing[i - 1], f"down_downscalers.{i}.1", f"up_upscalers.{up}.1", i)
    return rows


def _resizing(how: str, down: str, up: str, level: int) -> list[Row]:
    """The rows of the change of side before a level, and behind it on the way up."""
    if how == "convolution":
        return conv(down, f"down_{level}_resize") + linear(up, f"up_{level}_resize", TRANSPOSED)
    down_rows = linear(f"{down}.blocks.0", f"down_{level}_resize", POINT)
    return down_rows + linear(f"{up}.blocks.1", f"up_{level}_resize", POINT)


def table(module: StableCascade, layout: str = "diffusers") -> list[Row]:
    """The rows of a network, by the names of diffusers or of the authors' files ("original")."""
    original = layout == "original"
    pooled = "clip_mapper" if original and not module.text_width else "clip_txt_pooled_mapper"
    rows = [
        *linear("embedding.1", "patch_embedding", POINT),
        *linear(pooled, "pooled"),
        *_levels(module, original),
        *linear("clf.1", "final", POINT),
    ]
    if module.text_width:
        rows += linear("clip_txt_mapper", "text") + linear("clip_img_mapper", "image")
    for ours, theirs, channels in (
        ("coarse", "effnet_mapper", module.coarse_channels),
        ("pixels", "pixels_mapper", module.pixel_channels),
    ):
        if channels:
            rows += linear(f"{theirs}.0", f"{ours}_hidden", POINT) + linear(f"{theirs}.2", f"{ours}_out", POINT)
    return rows


def _read_heads(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The heads of each level; a level without attention has none, whatever their number says."""
    heads, blocks = values.values()
    without, with_attention = PARTS[:2], PARTS
    if any(parts not in (without, with_attention) for parts in blocks):
        raise ValueError(
            f"block_types_per_layer = {blocks} is not supported. Supported for each level: {', '.join(PARTS[:2])}, "
            f"or these and {PARTS[2]}."
        )
    if len(heads) != len(blocks):
        raise ValueError(f"num_attention_heads = {heads} and block_types_per_layer must have one entry for each level.")
    return {"heads": tuple(number if parts == with_attention else 0 for number, parts in zip(heads, blocks))}


def _write_heads(module: StableCascade) -> dict[str, Any]:
    return {
        "num_attention_heads": module.heads,
        "block_types_per_layer": tuple(PARTS if heads else PARTS[:2] for heads in module.heads),
    }


def _read_resizing(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    (switches,) = values.values()
    changes = len(ours["widths"]) - 1
    if switches is None:
        return {"resizing": ("convolution",) * changes}
    return {"resizing": tuple("bilinear" if switch else "none" for switch in switches)}


def _write_resizing(module: StableCascade) -> dict[str, Any]:
    by_convolution = [how == "convolution" for how in module.resizing]
    if all(by_convolution):
        return {"switch_level": None}
    if any(by_convolution):
        raise ValueError(f"resizing = {module.resizing} cannot be written: all levels have convolutions, or none has.")
    return {"switch_level": tuple(how == "bilinear" for how in module.resizing)}


def _reversed(theirs: str, ours: str, default: tuple[int, ...]) -> Field:
    """A field of the way up, which counts the levels from the coarsest."""
    write = lambda module: getattr(module, ours)[::-1]
    return Field(theirs, ours, default, EACH_LEVEL, lambda numbers, _: numbers[::-1], write)


CONFIG = FieldTable(
    NAME,
    StableCascade,
    (
        Field("in_channels", "channels", 16),
        Follows("out_channels", lambda module: module.channels, default=16),
        Field("timestep_ratio_embedding_dim", "time_width", 64),
        Field("patch_size", "patch", 1),
        Field("conditioning_dim", "condition_width", 2048),
        Field("block_out_channels", "widths", (2048, 2048), SIZES),
        Field("down_num_layers_per_block", "layers", (8, 24), EACH_LEVEL),
        _reversed("up_num_layers_per_block", "up_layers", (24, 8)),
        Field("down_blocks_repeat_mappers", "repeats", (1, 1), EACH_LEVEL),
        _reversed("up_blocks_repeat_mappers", "up_repeats", (1, 1)),
        Group(
            {
                "num_attention_heads": ((32, 32), schema.several(schema.integer(-1), 1, 16)),
                "block_types_per_layer": ((PARTS, PARTS), schema.several(schema.several(schema.text(), 1, 16), 1, 16)),
            },
            _read_heads,
            _write_heads,
        ),
        zero_or_null("clip_text_in_channels", "text_width"),
        Field("clip_text_pooled_in_channels", "pooled_width", 1280),
        zero_or_null("clip_image_in_channels", "image_width"),
        Field("clip_seq", "tokens", 4),
        zero_or_null("effnet_in_channels", "coarse_channels"),
        zero_or_null("pixel_mapper_in_channels", "pixel_channels"),
        Field("kernel_size", "kernel", 3),
        # Dropout is drawn in training alone, and here never; what is written is what both stages were trained with.
        Group(
            {"dropout": ((0.1, 0.1), schema.either(schema.number(0, 1), schema.several(schema.number(0, 1), 1, 16)))},
            read=lambda values, _: {},
            write=lambda module: {"dropout": tuple(0.1 if heads else 0.0 for heads in module.heads)},
        ),
        Follows("self_attn", True),
        Choice("timestep_conditioning_type", "times", {TIMES: 3, TIMES[:1]: 2, (): 1}),
        Group(
            {"switch_level": (None, schema.optional(schema.several(schema.FLAG, 0, 15)))},
            _read_resizing,
            _write_resizing,
        ),
    ),
)


def _example(module: StableCascade) -> tuple:
    side = module.patch * 2 ** len(module.resizing)
    condition = {"pooled": array(1, module.pooled_width)}
    condition |= {"text": array(1, 1, module.text_width)} if module.text_width else {}
    condition |= {"coarse": array(1, 1, 1, module.coarse_channels)} if module.coarse_channels else {}
    return array(1, side, side, module.channels), array(1), condition


STAGE_C = {"clip_text_in_channels": 1280, "clip_image_in_channels": 768, "switch_level": [False]}
STAGE_B = {
    "in_channels": 4,
    "out_channels": 4,
    "patch_size": 2,
    "conditioning_dim": 1280,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_num_layers_per_block": [2, 6, 28, 6],
    "up_num_layers_per_block": [6, 28, 6, 2],
    "down_blocks_repeat_mappers": [1, 1, 1, 1],
    "up_blocks_repeat_mappers": [3, 3, 2, 2],
    "block_types_per_layer": [[*PARTS[:2]], [*PARTS[:2]], [*PARTS], [*PARTS]],
    "num_attention_heads": [0, 0, 20, 20],
    "effnet_in_channels": 16,
    "pixel_mapper_in_channels": 3,
    "dropout": [0, 0, 0.1, 0.1],
    "timestep_conditioning_type": ["sca"],
}
FAMILY = CONFIG.family(
    _example,
    by_layout(table, ("diffusers", "original")),
    published={"Stable Cascade, stage C": STAGE_C, "Stable Cascade, stage B": STAGE_B},
)
FAMILIES = {FAMILY.name: FAMILY}
