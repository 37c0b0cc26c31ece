"""Diffusers' UNet2DModel: the U-Nets of DDPM and ADM, and the NCSN++ of Song et al. (2021) for 256 x 256.

The latter divides its output by sigma and takes the logarithm of sigma itself, which `SongUNet` leaves to the
caller: `unet_2d(x, sigma) = song_unet(x, ln(sigma)) / sigma`, the score. `interchange.save` writes a
`SongUNet` with these options in these names, any other in EDM's; family="SongUNet" selects EDM's for this one too.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from diffusion.io import schema
from diffusion.models.interchange.family import EPSILON, LAYERS, MAYBE_SIZE, SIDES, SIZES, Family, only
from diffusion.models.interchange.field_table import ABSENT, Choice, Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import DENSE_OUT, Row, conv, linear, norm, side_by_side, two_linear
from diffusion.models.interchange.unet_boxes import OF_IMAGES, Box, boxes, example
from diffusion.models.layers.convolutions import ACTIVATIONS
from diffusion.models.song_unet import SongUNet
from diffusion.models.unet import UNet

NAME = "UNet2DModel"


def block_rows(theirs: str, ours: str, shortcut: bool) -> list[Row]:
    """A residual block."""
    rows = linear(f"{theirs}.time_emb_proj", f"{ours}/time")
    for k in (1, 2):
        rows += norm(f"{theirs}.norm{k}", f"{ours}/norm_{k}") + conv(f"{theirs}.conv{k}", f"{ours}/conv_{k}")
    return rows + (conv(f"{theirs}.conv_shortcut", f"{ours}/shortcut") if shortcut else [])


def attention_rows(theirs: str, ours: str, normed: bool = True) -> list[Row]:
    """Attention of pixels, with or without its norm."""
    rows = norm(f"{theirs}.group_norm", f"{ours}/norm") if normed else []
    rows += linear(f"{theirs}.to_out.0", f"{ours}/out", DENSE_OUT)
    return rows + side_by_side((f"{theirs}.to_{name}" for name in "qkv"), f"{ours}/qkv")


def _rows(module: SongUNet | UNet) -> list[Row]:
    return _song_rows(module) if isinstance(module, SongUNet) else _unet_rows(module)


def _common_rows() -> list[Row]:
    return conv("conv_in", "conv_in") + two_linear("time_embedding", "time_")


def _part(box: Box, levels: int) -> str:
    up = f"up_blocks.{levels - 1 - box.level}"
    return {"down": f"down_blocks.{box.level}", "middle": "mid_block", "up": up}[box.part]


def _unet_rows(module: UNet) -> list[Row]:
    levels = len(module.widths)
    table = [*_common_rows(), *norm("conv_norm_out", "norm_out"), *conv("conv_out", "conv_out")]
    if module.num_classes:
        table.append(Row("class_embedding.weight", "classes"))
    if module.learned_times:
        table.append(Row("time_proj.weight", "times"))
    if module.vector_embedding == "time":
        table += two_linear("class_embedding", "vector_")
    attends = tuple(i in module.attention_levels for i in range(levels))
    for box in boxes(module.widths, module.widths[0], module.blocks, attends):
        theirs = _part(box, levels)
        if box.index is None:
            change = f"{theirs}.{box.part}samplers.0"
            table += (
                conv(f"{change}.conv", box.ours) if module.resample == "conv" else block_rows(change, box.ours, False)
            )
            continue
        table += block_rows(f"{theirs}.resnets.{box.index}", box.ours, box.shortcut)
        if box.attends and (box.part != "middle" or module.middle_attention):
            ours = "middle_attention" if box.part == "middle" else f"{box.ours}_attention"
            normed = box.part != "middle" or module.middle_groups != 0
            table += attention_rows(f"{theirs}.attentions.{box.index}", ours, normed)
    return table


def _song_rows(module: SongUNet) -> list[Row]:
    levels = len(module.widths)
    table = [
        *_common_rows(),
        Row("time_proj.weight", "frequencies"),
        *norm("conv_norm_out", "norm_out_0"),
        *conv("conv_out", "conv_out_0"),
    ]
    attends = tuple(module.attends(i) for i in range(levels))
    for box in boxes(module.widths, module.width, module.blocks, attends):
        theirs = _part(box, levels)
        if box.index is None:  # our names have the level after it
            level = box.level + (1 if box.part == "down" else -1)
            table += block_rows(f"{theirs}.resnet_{box.part}", f"{box.part}_{level}_resample", True)
            if box.part == "down":
                table += conv(f"{theirs}.skip_conv", f"down_{level}_image")
            else:
                table += norm(f"{theirs}.skip_norm", f"norm_out_{box.level}")
                table += conv(f"{theirs}.skip_conv", f"conv_out_{box.level}")
            continue
        table += block_rows(f"{theirs}.resnets.{box.index}", box.ours, box.shortcut)
        if box.attends and (box.part != "up" or box.index == module.blocks):
            index = 0 if box.part == "up" else box.index
            table += attention_rows(f"{theirs}.attentions.{index}", f"{box.ours}_attention")
    return table


KINDS = {
    "block_out_channels": ((224, 448, 672, 896), SIZES),
    "down_block_types": (("DownBlock2D", *("AttnDownBlock2D",) * 3), None),
    "up_block_types": ((*("AttnUpBlock2D",) * 3, "UpBlock2D"), None),
}
CHANGE = ("conv", ["conv", "resnet"])  # valid are these, of downsample_type and upsample_type

PADDING = (1, [1, 0])


def _check_levels(widths: tuple, down: tuple, up: tuple) -> None:
    if not len(down) == len(up) == len(widths):
        raise ValueError(
            f"block_out_channels has {len(widths)} levels, down_block_types {len(down)} and up_block_types {len(up)}; "
            "all must have the same number."
        )


def _read_levels(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """Our widths, the levels with attention, and the operation that changes the side."""
    widths, down, up, *changes, padding = values.values()
    _check_levels(widths, down, up)
    ways = []
    for way, kinds, change in zip(("Down", "Up"), (down, up[::-1]), changes):
        known = {
            f"{way}Block2D": (False, "conv"),
            f"Resnet{way}sampleBlock2D": (False, "block"),
            f"Attn{way}Block2D": (True, {"conv": "conv", "resnet": "block"}[change]),
        }
        unknown = [kind for kind in kinds if kind not in known]
        if unknown:
            raise ValueError(
                f"blocks of the type {unknown[0]!r} are not supported. Supported: {', '.join(map(repr, known))}."
            )
        ways.append([known[kind] for kind in kinds])
    attends = tuple(one for one, _ in ways[0])
    # The last level does not halve, and the first does not double.
    resample = {change for _, change in ways[0][:-1] + ways[1][1:]}
    if attends != tuple(one for one, _ in ways[1]) or len(resample) > 1:
        raise ValueError(
            f"down_block_types = {down!r} and up_block_types = {up!r} do not mirror each other: both directions need "
            "the same attention and one way to change the side."
        )
    return {
        "widths": widths,
        "attention_levels": tuple(i for i, one in enumerate(attends) if one),
        "resample": min(resample, default="conv"),
        "padding": "end" if resample <= {"conv"} and padding == 0 else "both",
    }


def _write_levels(module: UNet) -> dict[str, Any]:
    only(NAME, module, features=(None, module.widths[0]))
    plain = {"conv": "{}Block2D", "block": "Resnet{}sampleBlock2D"}[module.resample]
    kind = lambda way, level: f"Attn{way}Block2D" if level in module.attention_levels else plain.format(way)
    levels = range(len(module.widths))
    change = {"conv": "conv", "block": "resnet"}[module.resample]
    return {
        "block_out_channels": module.widths,
        "down_block_types": [kind("Down", i) for i in levels],
        "up_block_types": [kind("Up", i) for i in reversed(levels)],
        "downsample_type": change,
        "upsample_type": change,
        "downsample_padding": 0 if module.padding == "end" else 1,
    }


def _read_norms(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """Our groups of the norms, separately for the middle's attention, and whether the time scales and shifts."""
    groups, kind, middle = values.values()
    scale_shift = kind == "scale_shift"
    if groups is None:
        raise ValueError("norm_num_groups = None is supported only with SkipDownBlock2D.")
    if middle is None and scale_shift:  # then they leave the norm out
        middle = 0
    return {"groups": groups, "scale_shift": scale_shift, "middle_groups": None if middle == groups else middle}


def _write_norms(module: UNet) -> dict[str, Any]:
    middle = module.groups if module.middle_groups is None else module.middle_groups
    if middle == (0 if module.scale_shift else module.groups):
        middle = None
    if middle == 0:
        raise ValueError("middle_groups = 0 can be written in this format only with scale_shift = True.")
    return {
        "norm_num_groups": module.groups,
        "resnet_time_scale_shift": "scale_shift" if module.scale_shift else "default",
        "attn_norm_num_groups": middle,
    }


def _write_heads(module: UNet) -> dict[str, Any]:
    only(NAME, module, heads=(None, 1))
    return {"attention_head_dim": module.head_size}


def _read_times(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """The number of our learned times, which only such a network needs."""
    kind, number = values.values()
    if kind == "learned" and number is None:
        raise ValueError("time_embedding_type = 'learned' needs num_train_timesteps, the number of the times.")
    return {"learned_times": number if kind == "learned" else 0}


def _write_times(module: UNet) -> dict[str, Any]:
    kind = "learned" if module.learned_times else "positional"
    return {"time_embedding_type": kind, "num_train_timesteps": module.learned_times or ABSENT}


CLASSES = {None: "linear", "timestep": "time", "identity": "identity"}
"""Our `vector_embedding` for their class_embed_type."""


def _read_classes(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Our table of classes, or what is added to the embedding in its place, and the width of the embedding."""
    kind, number, width = values.values()
    if width == 4 * ours["widths"][0]:
        width = None
    vector = {None: 0, "timestep": 1, "identity": width or 4 * ours["widths"][0]}[kind]
    return {
        "num_classes": 0 if kind else number or 0,
        "vector_embedding": CLASSES[kind],
        "vector_width": vector,
        "embedding_width": width,
    }


def _write_classes(module: UNet) -> dict[str, Any]:
    kind = next(theirs for theirs, ours in CLASSES.items() if ours == module.vector_embedding)
    if module.vector_width and (kind is None or module.num_classes):
        raise ValueError(
            f"vector_width = {module.vector_width} cannot be written in this format with vector_embedding = "
            f"{module.vector_embedding!r} and num_classes = {module.num_classes}. Valid: 'time' or 'identity', without "
            "classes."
        )
    return {
        "class_embed_type": ABSENT if kind is None else kind,
        "num_class_embeds": module.num_classes or None,
        "time_embedding_dim": module.embedding_width or ABSENT,
    }


COMMON = (
    Follows("mid_block_type", "UNetMidBlock2D", silent=True),
    Field("layers_per_block", "blocks", 2, LAYERS),
    Field("dropout", "dropout", 0.0),
)
UNET_CONFIG = FieldTable(
    NAME,
    UNet,
    (
        *COMMON,
        Choice("act_fn", "activation", {**{name: name for name in ACTIVATIONS}, "swish": "silu"}),
        Field("center_input_sample", "centred", False),
        Field("add_attention", "middle_attention", True),
        Group(
            {**KINDS, "downsample_type": CHANGE, "upsample_type": CHANGE, "downsample_padding": PADDING},
            _read_levels,
            _write_levels,
        ),
        Group(
            {
                "time_embedding_type": ("positional", ["positional", "learned"]),
                "num_train_timesteps": (None, schema.optional(schema.integer(1, 10**5))),
            },
            _read_times,
            _write_times,
        ),
        Field(
            "mid_block_scale_factor",
            "middle_gain",
            1,
            schema.number(1e-3, 1e3),
            read=lambda factor, _: 1 / factor,
            write=lambda module: ABSENT if module.middle_gain == 1 else 1 / module.middle_gain,
        ),
        Group(
            {
                "norm_num_groups": (32, MAYBE_SIZE),
                "resnet_time_scale_shift": ("default", ["default", "scale_shift"]),
                "attn_norm_num_groups": (None, MAYBE_SIZE),
            },
            _read_norms,
            _write_norms,
        ),
        Group(
            {"attention_head_dim": (8, MAYBE_SIZE)},
            lambda sizes, ours: {
                "heads": 1 if sizes["attention_head_dim"] is None else None,
                "head_size": sizes["attention_head_dim"],
            },
            _write_heads,
        ),
        Group(
            {
                "class_embed_type": (None, list(CLASSES)),
                "num_class_embeds": (None, MAYBE_SIZE),
                "time_embedding_dim": (None, MAYBE_SIZE),
            },
            _read_classes,
            _write_classes,
        ),
        Field("in_channels", "in_channels", 3),
        Field("out_channels", "out_channels", 3),
        Choice("freq_shift", "frequency_shift", {0: 0, 1: 1}),
        Choice("flip_sin_to_cos", "sines_first", {True: False, False: True, None: True}),
        Field("norm_eps", "epsilon", 1e-5, EPSILON),
        Field(
            "sample_size", "resolution", None, SIDES, read=lambda size, ours: size if isinstance(size, int) else None
        ),
    ),
    required=OF_IMAGES,
)


def _skip_kinds(attends: tuple[bool, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    kind = lambda way, one: f"{'Attn' if one else ''}Skip{way}Block2D"
    return tuple(kind("Down", one) for one in attends), tuple(kind("Up", one) for one in reversed(attends))


def _read_song(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """Our resolution, widths and levels with attention."""
    widths, down, up, size = values.values()
    _check_levels(widths, down, up)
    attends = tuple(kind == "AttnSkipDownBlock2D" for kind in down)
    if (down, up) != _skip_kinds(attends):
        raise ValueError(
            f"down_block_types = {down!r} and up_block_types = {up!r} are not supported. Supported with "
            "(Attn)SkipDownBlock2D: such blocks alone, and (Attn)SkipUpBlock2D in the reverse order."
        )
    if any(width % widths[0] or (one and width < 128) for one, width in zip(attends, widths)):
        raise ValueError(
            f"block_out_channels = {widths!r} with (Attn)SkipDownBlock2D must be multiples of the first, and at least "
            "128 where there is attention."
        )
    size = size if isinstance(size, int) else 2 ** (len(widths) - 1)
    return {
        "resolution": size,
        "width": widths[0],
        "multipliers": tuple(width // widths[0] for width in widths),
        "attention_resolutions": tuple(size >> i for i, one in enumerate(attends) if one),
        **SKIP,
    }


def _write_song(module: SongUNet) -> dict[str, Any]:
    only(NAME, module, **{field: (value,) for field, value in SKIP.items()})
    attends = tuple(module.attends(i) for i in range(len(module.widths)))
    if module.multipliers[0] != 1 or any(one and width < 128 for one, width in zip(attends, module.widths)):
        raise ValueError(
            f"widths {module.widths} over {module.width} cannot be written in this format: the first level must have "
            "that width, and levels with attention at least 128."
        )
    down, up = _skip_kinds(attends)
    return {
        "block_out_channels": module.widths,
        "down_block_types": down,
        "up_block_types": up,
        "sample_size": module.resolution,
    }


def _check_middle(factors: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    if abs(factors["mid_block_scale_factor"] - math.sqrt(2)) > 1e-6:
        raise ValueError("mid_block_scale_factor must be the square root of 2 with SkipDownBlock2D.")
    return {}


SKIP = {"clock": "fourier", "clock_multiplier": 2, "encoder": "skip", "decoder": "skip", "taps": (1, 3, 3, 1)}
OF_OTHER_BLOCKS = ("downsample_padding", "downsample_type", "upsample_type", "freq_shift", "flip_sin_to_cos")
SONG_CONFIG = FieldTable(
    NAME,
    SongUNet,
    (
        *COMMON,
        Follows("act_fn", "silu"),
        Follows("center_input_sample", False, silent=True),
        Follows("add_attention", True, silent=True),
        Group({**KINDS, "sample_size": (None, SIDES)}, _read_song, _write_song),
        Follows("time_embedding_type", "fourier"),
        Group(
            {"mid_block_scale_factor": (1, schema.number())},
            _check_middle,
            lambda _: {"mid_block_scale_factor": math.sqrt(2)},
        ),
        Follows("norm_eps", 1e-6, default=1e-5),
        Follows("norm_num_groups", None, default=32),
        Follows("attention_head_dim", None, default=8),
        Follows("resnet_time_scale_shift", "default", silent=True),
        Follows("attn_norm_num_groups", None, silent=True),
        Follows("class_embed_type", None, silent=True),
        Follows("num_class_embeds", None, silent=True),
        Follows("time_embedding_dim", lambda module: 4 * module.widths[0], default=None, optional=True, silent=True),
        Follows("in_channels", 3),
        Follows("out_channels", 3),
    ),
    unread=dict.fromkeys(("num_train_timesteps", *OF_OTHER_BLOCKS)),
    required={"num_classes": 0, "augmentations": 0, "in_channels": 3, "out_channels": 3},
)


def _build(config: Mapping[str, Any]) -> nn.Module:
    """Our module for their config, which has other blocks where it describes Song's network."""
    return (SONG_CONFIG if "Skip" in str(config.get("down_block_types")) else UNET_CONFIG).build(config)


def _describe(module: SongUNet | UNet) -> dict[str, Any]:
    return (SONG_CONFIG if isinstance(module, SongUNet) else UNET_CONFIG).describe(module)


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
