"""ADM's U-Net by the names of guided-diffusion; a config holds the arguments of its UNetModel.

The files of consistency models (openai/consistency_models, cm/unet.py) have the same names. There the projections of
attention are convolutions in two dimensions, not one, and the queries, keys and values stand one after another.
"""

import functools
from collections.abc import Mapping
from typing import Any

from diffusion.io import limits, schema
from diffusion.models.interchange.attention_layouts import fused, point_out
from diffusion.models.interchange.family import DEPTH, SIZE
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group, without_default, zero_or_null
from diffusion.models.interchange.rows import Row, conv, linear, mlp, norm
from diffusion.models.interchange.unet_boxes import OF_IMAGES, USUAL, boxes, example
from diffusion.models.unet import UNet


def _rows(module: UNet, ones: int = 1) -> list[Row]:
    """The table, where the 1 x 1 convolutions of attention have `ones` axes of length one."""
    table = [
        *mlp("time_embed.0", "time_embed.2", "time_"),
        *conv("input_blocks.0.0", "conv_in"),
        *norm("out.0", "norm_out"),
        *conv("out.2", "conv_out"),
    ]
    if module.num_classes:
        table.append(Row("label_emb.weight", "classes"))
    number = {"input": 0, "output": -1}  # number of the box that was read last; the first input is the convolution
    attends = tuple(i in module.attention_levels for i in range(len(module.widths)))
    for box in boxes(module.widths, module.widths[0], module.blocks, attends):
        way = {"down": "input", "middle": "middle", "up": "output"}[box.part]
        index = 0
        if box.part == "middle":
            theirs = "middle_block"
            index = 2 * (box.index or 0)
        else:
            if box.part == "up" and box.index is None:  # it follows the level's last block
                index = 2 if attends[box.level] else 1
            else:
                number[way] += 1
            theirs = f"{way}_blocks.{number[way]}"
        if box.index is None and module.resample == "conv":
            table += conv(f"{theirs}.{index}.{'op' if box.part == 'down' else 'conv'}", box.ours)
            continue
        table += _block_rows(f"{theirs}.{index}", box.ours, box.shortcut)
        if box.attends:
            ours = "middle_attention" if box.part == "middle" else f"{box.ours}_attention"
            table += _attention_rows(f"{theirs}.1", ours, "hid" if module.qkv_per_head else "ihd", ones)
    return table


def _block_rows(theirs: str, ours: str, shortcut: bool) -> list[Row]:
    rows = [
        *norm(f"{theirs}.in_layers.0", f"{ours}/norm_1"),
        *conv(f"{theirs}.in_layers.2", f"{ours}/conv_1"),
        *linear(f"{theirs}.emb_layers.1", f"{ours}/time"),
        *norm(f"{theirs}.out_layers.0", f"{ours}/norm_2"),
        *conv(f"{theirs}.out_layers.3", f"{ours}/conv_2"),
    ]
    return rows + (conv(f"{theirs}.skip_connection", f"{ours}/shortcut") if shortcut else [])


def _attention_rows(theirs: str, ours: str, order: str, ones: int) -> list[Row]:
    kernel, bias = fused(order, ones)
    return [
        *norm(f"{theirs}.norm", f"{ours}/norm"),
        Row(f"{theirs}.qkv.weight", f"{ours}/qkv/kernel", kernel),
        Row(f"{theirs}.qkv.bias", f"{ours}/qkv/bias", bias),
        *linear(f"{theirs}.proj_out", f"{ours}/out", point_out(ones)),
    ]


MULTIPLIERS = schema.several(schema.number(0, 1024), 1, 16)
ATTENDED = schema.optional(schema.several(SIZE))


def _read_levels(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Our widths, and the levels with attention; a config has how often these halve the side."""
    features = ours["features"]
    if values["attention_resolutions"] is None:
        raise ValueError("the config has no attention_resolutions.")
    widths = tuple(int(features * factor) for factor in values["channel_mult"])
    return {
        "widths": widths,
        "features": None if features == widths[0] else features,
        "attention_levels": tuple(i for i in range(len(widths)) if 2**i in values["attention_resolutions"]),
    }


def _write_levels(module: UNet) -> dict[str, Any]:
    features = module.time_features
    return {
        "attention_resolutions": [2**i for i in module.attention_levels],
        "channel_mult": [width // features if width % features == 0 else width / features for width in module.widths],
    }


def _read_heads(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Our heads: their number, or the channels of each where that is not -1."""
    heads, head_size, upsample = values.values()
    if upsample not in (-1, heads):
        raise ValueError(f"num_heads_upsample = {limits.short(upsample)} is not supported; supported: -1, {heads}.")
    return {"heads": heads, "head_size": None} if head_size == -1 else {"heads": None, "head_size": head_size}


def _write_side(module: UNet) -> int:
    if module.resolution is None:
        raise ValueError("the side of the pictures is not known; set it by module.clone(resolution=64).")
    return module.resolution


def _not(value: bool, _: Mapping[str, Any]) -> bool:
    return not value


CONFIG = FieldTable(
    "ADMUNet",
    UNet,
    (
        without_default("image_size", "resolution", SIZE)._replace(write=_write_side),
        without_default("in_channels", "in_channels", SIZE),
        without_default("model_channels", "features", SIZE)._replace(write=lambda module: module.time_features),
        without_default("out_channels", "out_channels", SIZE),
        without_default("num_res_blocks", "blocks", DEPTH),
        Follows("dims", 2, silent=True),
        Follows("conv_resample", True, silent=True),
        Group(
            {"attention_resolutions": (None, ATTENDED), "channel_mult": ((1, 2, 4, 8), MULTIPLIERS)},
            _read_levels,
            _write_levels,
        ),
        Field("dropout", "dropout", 0.0, read=lambda rate, _: float(rate)),
        zero_or_null("num_classes", "num_classes"),
        Group(
            {"num_heads": (1, None), "num_head_channels": (-1, None), "num_heads_upsample": (-1, schema.ANY)},
            _read_heads,
            lambda module: {"num_heads": module.heads or 1, "num_head_channels": module.head_size or -1},
        ),
        Field("use_scale_shift_norm", "scale_shift", False),
        Field(
            "resblock_updown",
            "resample",
            False,
            read=lambda block, _: "block" if block else "conv",
            write=lambda module: module.resample == "block",
        ),
        Field("use_new_attention_order", "qkv_per_head", False, None, _not, lambda module: not module.qkv_per_head),
    ),
    unread={"use_checkpoint": None, "use_fp16": None},
    required={
        "groups": 32, "epsilon": 1e-5, "padding": "both", "frequency_shift": 0, "sines_first": False,
        **OF_IMAGES, **USUAL,
    },
)  # fmt: skip


def _published(size: int, channels: int, levels: tuple, **config: Any) -> dict[str, Any]:
    """A network of the authors, all with learned variance."""
    return {
        "image_size": size,
        "in_channels": 3,
        "model_channels": channels,
        "out_channels": 6,
        "num_res_blocks": 2,
        "attention_resolutions": [size // 32, size // 16, size // 8],
        "channel_mult": list(levels),
        "num_classes": 1000,
        "num_head_channels": 64,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        **config,
    }


PUBLISHED = {
    "ADM, ImageNet 64": _published(64, 192, (1, 2, 3, 4), num_res_blocks=3, dropout=0.1, use_new_attention_order=True),
    "ADM, ImageNet 128": _published(128, 256, (1, 1, 2, 3, 4), num_heads=4, num_head_channels=-1),
    "ADM, ImageNet 256": _published(256, 256, (1, 1, 2, 2, 4, 4)),
    "ADM, ImageNet 256 without classes, LSUN": _published(256, 256, (1, 1, 2, 2, 4, 4), num_classes=None),
    "ADM, ImageNet 512": _published(512, 256, (0.5, 1, 1, 2, 2, 4, 4)),
    # openai/consistency_models, scripts/launch.sh
    "consistency, ImageNet 64": _published(
        64, 192, (1, 2, 3, 4), out_channels=3, num_res_blocks=3, use_new_attention_order=True
    ),
    "consistency, LSUN 256": _published(
        256,
        256,
        (1, 1, 2, 2, 4, 4),
        out_channels=3,
        num_classes=None,
        use_scale_shift_norm=False,
        use_new_attention_order=True,
    ),
}
LAYOUTS = {"original": _rows, "consistency": functools.partial(_rows, ones=2)}
FAMILY = CONFIG.family(example, LAYOUTS, library="", published=PUBLISHED)
