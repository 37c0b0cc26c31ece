"""ADM's U-Net by the names of guided-diffusion; a config holds the arguments of its UNetModel.

The files of consistency models (openai/consistency_models, cm/unet.py) have the same names. There the projections of
attention are convolutions in two dimensions, not one, and the queries, keys and values stand one after another.
"""

__all__ = []

import functools
from collections.abc import Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.interchange.attention_layouts import fused, point_out
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZE, Family, Fields, Refusal
from diffusion.models.interchange.rows import Row, linear
from diffusion.models.interchange.unet_boxes import OF_IMAGES, boxes, conv_rows, example, norm_rows, only
from diffusion.models.unet import UNet

NAME = "ADMUNet"


def _rows(module: UNet, ones: int = 1) -> list[Row]:
    """The table, where the 1 x 1 convolutions of attention have `ones` axes of length one."""
    table = [
        *linear("time_embed.0", "time_hidden"),
        *linear("time_embed.2", "time_out"),
        *conv_rows("input_blocks.0.0", "conv_in"),
        *norm_rows("out.0", "norm_out"),
        *conv_rows("out.2", "conv_out"),
    ]
    if module.num_classes:
        table.append(Row("label_emb.weight", "classes"))
    number = {"input": 0, "output": -1}  # of the box last read; the first input is the convolution
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
            table += conv_rows(f"{theirs}.{index}.{'op' if box.part == 'down' else 'conv'}", box.ours)
            continue
        table += _block_rows(f"{theirs}.{index}", box.ours, box.shortcut)
        if box.attends:
            ours = "middle_attention" if box.part == "middle" else f"{box.ours}_attention"
            table += _attention_rows(f"{theirs}.1", ours, "hid" if module.qkv_per_head else "ihd", ones)
    return table


def _block_rows(theirs: str, ours: str, shortcut: bool) -> list[Row]:
    rows = [
        *norm_rows(f"{theirs}.in_layers.0", f"{ours}/norm_1"),
        *conv_rows(f"{theirs}.in_layers.2", f"{ours}/conv_1"),
        *linear(f"{theirs}.emb_layers.1", f"{ours}/time"),
        *norm_rows(f"{theirs}.out_layers.0", f"{ours}/norm_2"),
        *conv_rows(f"{theirs}.out_layers.3", f"{ours}/conv_2"),
    ]
    return rows + (conv_rows(f"{theirs}.skip_connection", f"{ours}/shortcut") if shortcut else [])


def _attention_rows(theirs: str, ours: str, order: str, ones: int) -> list[Row]:
    kernel, bias = fused(order, ones)
    return [
        *norm_rows(f"{theirs}.norm", f"{ours}/norm"),
        Row(f"{theirs}.qkv.weight", f"{ours}/qkv/kernel", kernel),
        Row(f"{theirs}.qkv.bias", f"{ours}/qkv/bias", bias),
        *conv_rows(f"{theirs}.proj_out", f"{ours}/out", point_out(ones)),
    ]


MULTIPLIERS = schema.several(schema.number(0, 1024), 1, 16)


def _build(config: Mapping[str, Any]) -> UNet:
    fields = Fields(NAME, config, ("use_checkpoint", "use_fp16"))
    for field, valid in (
        ("image_size", SIZE),
        ("in_channels", SIZE),
        ("model_channels", SIZE),
        ("out_channels", SIZE),
        ("num_res_blocks", DEPTH),
        ("attention_resolutions", schema.several(SIZE)),
    ):
        if fields.take(field, None, schema.optional(valid)) is None:
            raise Refusal(f"{NAME}: the config has no {field}.")
    features = config["model_channels"]
    fields.only("dims", 2)
    fields.only("conv_resample", True)
    head_size = fields.take("num_head_channels", -1)
    heads = fields.take("num_heads", 1)
    fields.only("num_heads_upsample", -1, heads)
    widths = tuple(int(features * one) for one in fields.take("channel_mult", (1, 2, 4, 8), MULTIPLIERS))
    module = UNet(
        widths=widths,
        blocks=config["num_res_blocks"],
        attention_levels=tuple(i for i in range(len(widths)) if 2**i in config["attention_resolutions"]),
        num_classes=fields.take("num_classes", None, MAYBE_SIZE) or 0,
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        heads=heads if head_size == -1 else None,
        head_size=None if head_size == -1 else head_size,
        scale_shift=fields.take("use_scale_shift_norm", False),
        resample="block" if fields.take("resblock_updown", False) else "conv",
        features=None if features == widths[0] else features,
        dropout=float(fields.take("dropout", 0.0)),
        resolution=config["image_size"],
        qkv_per_head=not fields.take("use_new_attention_order", False),
    )
    fields.end()
    return module


def _describe(module: UNet) -> dict[str, Any]:
    only(NAME, module, groups=(32,), epsilon=(1e-5,), padding=("both",), frequency_shift=(0,), sines_first=(False,))
    only(NAME, module, **OF_IMAGES)
    features = module.time_features
    if module.resolution is None:
        raise Refusal(f"{NAME}: the module needs the side of the pictures: module.clone(resolution=64).")
    return {
        "image_size": module.resolution,
        "in_channels": module.in_channels,
        "model_channels": features,
        "out_channels": module.out_channels,
        "num_res_blocks": module.blocks,
        "attention_resolutions": [2**i for i in module.attention_levels],
        "dropout": module.dropout,
        "channel_mult": [width // features if width % features == 0 else width / features for width in module.widths],
        "num_classes": module.num_classes or None,
        "num_heads": module.heads or 1,
        "num_head_channels": module.head_size or -1,
        "use_scale_shift_norm": module.scale_shift,
        "resblock_updown": module.resample == "block",
        "use_new_attention_order": not module.qkv_per_head,
    }


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
FAMILY = Family(NAME, UNet, _build, _describe, example, LAYOUTS, library="", published=PUBLISHED)
