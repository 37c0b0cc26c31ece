"""Diffusers' UNet2DModel: the U-Nets of DDPM and ADM, and the NCSN++ of Song et al. (2021) for 256 x 256.

The latter divides its output by sigma and takes the logarithm of sigma itself, which `SongUNet` leaves to the
caller: `unet_2d(x, sigma) = song_unet(x, ln(sigma)) / sigma`, the score. `interchange.save` writes a
`SongUNet` with these options in these names, any other in EDM's; family="SongUNet" selects EDM's for this one too.
"""

__all__ = ["attention_rows", "block_rows"]

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from diffusion.io import schema
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIDES, SIZES, Family, Fields, Refusal, require
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, Row, linear
from diffusion.models.interchange.unet_boxes import OF_IMAGES, boxes, conv_rows, example, norm_rows, only
from diffusion.models.song_unet import SongUNet
from diffusion.models.unet import UNet

NAME = "UNet2DModel"


def block_rows(theirs: str, ours: str, shortcut: bool) -> list[Row]:
    """A residual block."""
    rows = linear(f"{theirs}.time_emb_proj", f"{ours}/time")
    for k in (1, 2):
        rows += norm_rows(f"{theirs}.norm{k}", f"{ours}/norm_{k}") + conv_rows(f"{theirs}.conv{k}", f"{ours}/conv_{k}")
    return rows + (conv_rows(f"{theirs}.conv_shortcut", f"{ours}/shortcut") if shortcut else [])


def attention_rows(theirs: str, ours: str) -> list[Row]:
    """Attention of pixels."""
    rows = norm_rows(f"{theirs}.group_norm", f"{ours}/norm") + linear(f"{theirs}.to_out.0", f"{ours}/out", DENSE_OUT)
    for i, name in enumerate("qkv"):
        rows += linear(f"{theirs}.to_{name}", f"{ours}/qkv", DENSE, at=(slice(None), i))
    return rows


def _rows(module: SongUNet | UNet) -> list[Row]:
    return _song_rows(module) if isinstance(module, SongUNet) else _unet_rows(module)


def _common_rows() -> list[Row]:
    return [
        *conv_rows("conv_in", "conv_in"),
        *linear("time_embedding.linear_1", "time_hidden"),
        *linear("time_embedding.linear_2", "time_out"),
    ]


def _unet_rows(module: UNet) -> list[Row]:
    levels = len(module.widths)
    table = [*_common_rows(), *norm_rows("conv_norm_out", "norm_out"), *conv_rows("conv_out", "conv_out")]
    if module.num_classes:
        table.append(Row("class_embedding.weight", "classes"))
    attends = tuple(i in module.attention_levels for i in range(levels))
    for box in boxes(module.widths, module.widths[0], module.blocks, attends):
        theirs = {
            "down": f"down_blocks.{box.level}",
            "middle": "mid_block",
            "up": f"up_blocks.{levels - 1 - box.level}",
        }[box.part]
        if box.index is None:
            change = f"{theirs}.{box.part}samplers.0"
            table += (
                conv_rows(f"{change}.conv", box.ours)
                if module.resample == "conv"
                else block_rows(change, box.ours, False)
            )
            continue
        table += block_rows(f"{theirs}.resnets.{box.index}", box.ours, box.shortcut)
        if box.attends:
            ours = "middle_attention" if box.part == "middle" else f"{box.ours}_attention"
            table += attention_rows(f"{theirs}.attentions.{box.index}", ours)
    return table


def _song_rows(module: SongUNet) -> list[Row]:
    levels = len(module.widths)
    table = [
        *_common_rows(),
        Row("time_proj.weight", "frequencies"),
        *norm_rows("conv_norm_out", "norm_out_0"),
        *conv_rows("conv_out", "conv_out_0"),
    ]
    attends = tuple(module.attends(i) for i in range(levels))
    for box in boxes(module.widths, module.width, module.blocks, attends):
        theirs = {
            "down": f"down_blocks.{box.level}",
            "middle": "mid_block",
            "up": f"up_blocks.{levels - 1 - box.level}",
        }[box.part]
        if box.index is None:  # our names have the level after it
            level = box.level + (1 if box.part == "down" else -1)
            table += block_rows(f"{theirs}.resnet_{box.part}", f"{box.part}_{level}_resample", True)
            if box.part == "down":
                table += conv_rows(f"{theirs}.skip_conv", f"down_{level}_image")
            else:
                table += norm_rows(f"{theirs}.skip_norm", f"norm_out_{box.level}")
                table += conv_rows(f"{theirs}.skip_conv", f"conv_out_{box.level}")
            continue
        table += block_rows(f"{theirs}.resnets.{box.index}", box.ours, box.shortcut)
        if box.attends and (box.part != "up" or box.index == module.blocks):
            index = 0 if box.part == "up" else box.index
            table += attention_rows(f"{theirs}.attentions.{index}", f"{box.ours}_attention")
    return table


def _build(config: Mapping[str, Any]) -> nn.Module:
    fields = Fields(NAME, config, ("num_train_timesteps",))
    widths = fields.take("block_out_channels", (224, 448, 672, 896), SIZES)
    down = fields.take("down_block_types", ("DownBlock2D", *("AttnDownBlock2D",) * 3))
    up = fields.take("up_block_types", (*("AttnUpBlock2D",) * 3, "UpBlock2D"))
    if not len(down) == len(up) == len(widths):
        raise Refusal(
            f"{NAME}: block_out_channels has {len(widths)} levels, down_block_types {len(down)} and "
            f"up_block_types {len(up)}."
        )
    fields.only("act_fn", "silu")
    fields.only("center_input_sample", False)
    fields.only("mid_block_type", "UNetMidBlock2D")
    fields.only("add_attention", True)
    fields.only("class_embed_type", None)
    song = any("Skip" in kind for kind in down)
    module = (_build_song if song else _build_unet)(fields, widths, down, up)
    fields.end()
    return module


def _build_unet(fields: Fields, widths: tuple[int, ...], down: tuple[str, ...], up: tuple[str, ...]) -> UNet:
    attends, resample = _levels(fields, down, up)
    fields.only("time_embedding_type", "positional")
    fields.only("time_embedding_dim", None, 4 * widths[0])
    fields.only("mid_block_scale_factor", 1)
    groups = fields.take("norm_num_groups", 32, MAYBE_SIZE)
    if groups is None:
        raise Refusal(f"{NAME}: norm_num_groups = None is supported with SkipDownBlock2D alone.")
    scale_shift = fields.only("resnet_time_scale_shift", "default", "scale_shift") == "scale_shift"
    norm = fields.take("attn_norm_num_groups", None, MAYBE_SIZE)
    if norm != groups and (scale_shift or norm is not None):  # with scale_shift, None leaves out a norm
        raise Refusal(
            f"{NAME}: attn_norm_num_groups = {norm!r} is not supported beside norm_num_groups = {groups} and "
            f"resnet_time_scale_shift = {fields.take('resnet_time_scale_shift', 'default')!r}."
        )
    head_size = fields.take("attention_head_dim", 8, MAYBE_SIZE)
    padding = fields.only("downsample_padding", 1, 0)
    size = fields.take("sample_size", None, SIDES)
    return UNet(
        widths=widths,
        blocks=fields.take("layers_per_block", 2, DEPTH),
        attention_levels=tuple(i for i, one in enumerate(attends) if one),
        num_classes=fields.take("num_class_embeds", None, MAYBE_SIZE) or 0,
        in_channels=fields.take("in_channels", 3),
        out_channels=fields.take("out_channels", 3),
        heads=1 if head_size is None else None,
        head_size=head_size,
        scale_shift=scale_shift,
        resample=resample,
        padding="end" if resample == "conv" and padding == 0 else "both",
        frequency_shift=fields.only("freq_shift", 0, 1),
        sines_first=not fields.take("flip_sin_to_cos", True),
        groups=groups,
        epsilon=fields.take("norm_eps", 1e-5),
        dropout=fields.take("dropout", 0.0),
        resolution=size if isinstance(size, int) else None,
    )


def _levels(fields: Fields, down: tuple[str, ...], up: tuple[str, ...]) -> tuple[tuple[bool, ...], str]:
    """The levels with attention, and the operation that changes the side."""
    ways = []
    for way, kinds in (("Down", down), ("Up", up[::-1])):
        change = {"conv": "conv", "resnet": "block"}[fields.only(f"{way.lower()}sample_type", "conv", "resnet")]
        known = {
            f"{way}Block2D": (False, "conv"),
            f"Resnet{way}sampleBlock2D": (False, "block"),
            f"Attn{way}Block2D": (True, change),
        }
        unknown = [kind for kind in kinds if kind not in known]
        if unknown:
            raise Refusal(
                f"{NAME}: blocks of the type {unknown[0]!r} are not supported; supported are "
                f"{', '.join(map(repr, known))}."
            )
        ways.append([known[kind] for kind in kinds])
    attends = tuple(one for one, _ in ways[0])
    # The last level does not halve, and the first does not double.
    changes = {change for _, change in ways[0][:-1] + ways[1][1:]}
    if attends != tuple(one for one, _ in ways[1]) or len(changes) > 1:
        raise Refusal(
            f"{NAME}: down_block_types = {down!r} and up_block_types = {up!r} are not one network in both "
            "directions, with the same attention and one way to change the side."
        )
    return attends, changes.pop() if changes else "conv"


def _build_song(fields: Fields, widths: tuple[int, ...], down: tuple[str, ...], up: tuple[str, ...]) -> SongUNet:
    attends = tuple(kind == "AttnSkipDownBlock2D" for kind in down)
    if (down, up) != _skip_kinds(attends):
        raise Refusal(
            f"{NAME}: down_block_types = {down!r} and up_block_types = {up!r} are not supported; supported "
            "with (Attn)SkipDownBlock2D are these, and (Attn)SkipUpBlock2D in the reverse order."
        )
    for i, width in enumerate(widths):
        if width % widths[0] or (attends[i] and width < 128):
            raise Refusal(
                f"{NAME}: block_out_channels = {widths!r} with (Attn)SkipDownBlock2D are to be multiples of "
                "the first, and at least 128 where there is attention."
            )
    fields.only("time_embedding_type", "fourier")
    fields.only("time_embedding_dim", None, 4 * widths[0])
    if abs(fields.take("mid_block_scale_factor", 1, schema.number()) - math.sqrt(2)) > 1e-6:
        raise Refusal(f"{NAME}: mid_block_scale_factor must be the square root of 2 with SkipDownBlock2D.")
    for field, value in (("norm_eps", 1e-6), ("norm_num_groups", None), ("attention_head_dim", None)):
        if fields.take(field, "its default", schema.ANY) != value:
            raise Refusal(
                f"{NAME}: {field} = {fields.take(field)!r} is not supported with SkipDownBlock2D; {value!r} is."
            )
    for field, value in (
        ("resnet_time_scale_shift", "default"),
        ("attn_norm_num_groups", None),
        ("num_class_embeds", None),
        ("in_channels", 3),
        ("out_channels", 3),
    ):
        fields.only(field, value)
    for field in ("downsample_padding", "downsample_type", "upsample_type", "freq_shift", "flip_sin_to_cos"):
        fields.take(field)  # without effect on these blocks
    size = fields.take("sample_size", None, SIDES)
    size = size if isinstance(size, int) else 2 ** (len(widths) - 1)
    return SongUNet(
        resolution=size,
        width=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=fields.take("layers_per_block", 2, DEPTH),
        attention_resolutions=tuple(size >> i for i, one in enumerate(attends) if one),
        dropout=fields.take("dropout", 0.0),
        **SKIP,
    )


SKIP = {"clock": "fourier", "clock_multiplier": 2, "encoder": "skip", "decoder": "skip", "taps": (1, 3, 3, 1)}


def _skip_kinds(attends: tuple[bool, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    kind = lambda way, one: f"{'Attn' if one else ''}Skip{way}Block2D"
    return tuple(kind("Down", one) for one in attends), tuple(kind("Up", one) for one in reversed(attends))


def _describe(module: SongUNet | UNet) -> dict[str, Any]:
    return _describe_song(module) if isinstance(module, SongUNet) else _describe_unet(module)


def _describe_unet(module: UNet) -> dict[str, Any]:
    only(NAME, module, features=(None, module.widths[0]), heads=(None, 1))
    require(NAME, module, OF_IMAGES)
    plain = {"conv": "{}Block2D", "block": "Resnet{}sampleBlock2D"}[module.resample]
    kind = lambda way, level: f"Attn{way}Block2D" if level in module.attention_levels else plain.format(way)
    levels = range(len(module.widths))
    change = {"conv": "conv", "block": "resnet"}[module.resample]
    return {
        "sample_size": module.resolution,
        "in_channels": module.in_channels,
        "out_channels": module.out_channels,
        "time_embedding_type": "positional",
        "freq_shift": module.frequency_shift,
        "flip_sin_to_cos": not module.sines_first,
        "down_block_types": [kind("Down", i) for i in levels],
        "up_block_types": [kind("Up", i) for i in reversed(levels)],
        "downsample_type": change,
        "upsample_type": change,
        "downsample_padding": 0 if module.padding == "end" else 1,
        "block_out_channels": list(module.widths),
        "layers_per_block": module.blocks,
        "act_fn": "silu",
        "attention_head_dim": module.head_size,
        "norm_num_groups": module.groups,
        "norm_eps": module.epsilon,
        "attn_norm_num_groups": module.groups if module.scale_shift else None,
        "dropout": module.dropout,
        "resnet_time_scale_shift": "scale_shift" if module.scale_shift else "default",
        "num_class_embeds": module.num_classes or None,
    }


def _describe_song(module: SongUNet) -> dict[str, Any]:
    only(
        NAME,
        module,
        **{field: (value,) for field, value in SKIP.items()},
        num_classes=(0,),
        augmentations=(0,),
        in_channels=(3,),
        out_channels=(3,),
    )
    attends = tuple(module.attends(i) for i in range(len(module.widths)))
    if module.multipliers[0] != 1 or any(one and width < 128 for one, width in zip(attends, module.widths)):
        raise Refusal(
            f"{NAME}: widths {module.widths} over {module.width} cannot be written to it; the first level has "
            "that width, and those with attention have at least 128."
        )
    down, up = _skip_kinds(attends)
    return {
        "sample_size": module.resolution,
        "in_channels": 3,
        "out_channels": 3,
        "time_embedding_type": "fourier",
        "down_block_types": list(down),
        "up_block_types": list(up),
        "mid_block_scale_factor": math.sqrt(2),
        "block_out_channels": list(module.widths),
        "layers_per_block": module.blocks,
        "act_fn": "silu",
        "attention_head_dim": None,
        "norm_num_groups": None,
        "norm_eps": 1e-6,
        "dropout": module.dropout,
    }


def _published(**config: Any) -> dict[str, Any]:
    return {
        "attention_head_dim": None,
        "norm_eps": 1e-6,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        **config,
    }


def _types(attends: str, plain: str = "{}Block2D") -> dict[str, list[str]]:
    """Types of blocks, for a string of one letter a level, "a" where it has attention."""
    kind = lambda way, letter: f"Attn{way}Block2D" if letter == "a" else plain.format(way)
    return {
        "down_block_types": [kind("Down", letter) for letter in attends],
        "up_block_types": [kind("Up", letter) for letter in reversed(attends)],
    }


_song_down, _song_up = _skip_kinds((False,) * 4 + (True,) + (False,) * 2)
PUBLISHED = {
    "DDPM, CIFAR-10": _published(sample_size=32, block_out_channels=[128, 256, 256, 256], **_types("-a--")),
    "DDPM, CelebA-HQ and LSUN 256": _published(
        sample_size=256, block_out_channels=[128, 128, 256, 256, 512, 512], **_types("----a-")
    ),
    "ADM as a consistency model, ImageNet 64": {
        "sample_size": 64,
        "block_out_channels": [192, 384, 576, 768],
        "layers_per_block": 3,
        "num_class_embeds": 1000,
        "attention_head_dim": 64,
        "attn_norm_num_groups": 32,
        "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        **_types("-aaa", "Resnet{}sampleBlock2D"),
    },
    "NCSN++, CelebA-HQ 256": {
        "sample_size": 256,
        "block_out_channels": [128, 128, 256, 256, 256, 256, 256],
        "attention_head_dim": None,
        "norm_eps": 1e-6,
        "norm_num_groups": None,
        "time_embedding_type": "fourier",
        "mid_block_scale_factor": 1.41421356237,
        "down_block_types": _song_down,
        "up_block_types": _song_up,
    },
}
FAMILY = Family(NAME, UNet, _build, _describe, example, {"diffusers": _rows}, published=PUBLISHED, other=SongUNet)
