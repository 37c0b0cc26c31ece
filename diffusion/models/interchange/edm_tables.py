"""EDM's U-Nets, SongUNet (DDPM++, NCSN++) and DhariwalUNet (ADM), by the names of their authors' repository.

A config holds the arguments of the class. The authors publish pickles, which this library does not read: if you trust
one, write its weights to safetensors with their program. In the file of a whole EDMPrecond the names have the prefix
"model."; its clock is ln(sigma) / 4 (`parameterizations.edm`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from diffusion.io import schema
from diffusion.models.interchange.attention_layouts import fused, point_out
from diffusion.models.interchange.family import DEPTH, SIZES, Computed
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group, without_default
from diffusion.models.interchange.rows import DENSE, Row, conv, linear, mlp, norm
from diffusion.models.interchange.unet_boxes import OF_IMAGES, USUAL, NamedBox, example, named_after_level, named_boxes
from diffusion.models.song_unet import SongUNet
from diffusion.models.unet import UNet


def _block_rows(theirs: str, ours: str, shortcut: bool) -> list[Row]:
    rows = linear(f"{theirs}.affine", f"{ours}/time")
    for k in (0, 1):
        rows += norm(f"{theirs}.norm{k}", f"{ours}/norm_{k + 1}")
        rows += conv(f"{theirs}.conv{k}", f"{ours}/conv_{k + 1}")
    return rows + (conv(f"{theirs}.skip", f"{ours}/shortcut") if shortcut else [])


def _attention_rows(theirs: str, ours: str) -> list[Row]:
    kernel, bias = fused("hdi", ones=2)
    return [
        *norm(f"{theirs}.norm2", f"{ours}/norm"),
        Row(f"{theirs}.qkv.weight", f"{ours}/qkv/kernel", kernel),
        Row(f"{theirs}.qkv.bias", f"{ours}/qkv/bias", bias),
        *linear(f"{theirs}.proj", f"{ours}/out", point_out(2)),
    ]


def _song_named(module: SongUNet) -> Iterator[NamedBox]:
    """On the way up only the last block of a level has attention."""
    for box, theirs in named_boxes(module, module.width, tuple(map(module.attends, range(len(module.widths))))):
        last = box.part != "up" or box.index == module.blocks
        yield NamedBox(named_after_level(box)._replace(attends=box.attends and last), theirs)


def _song_rows(module: SongUNet) -> list[Row]:
    side = lambda level: f"{module.resolution >> level}x{module.resolution >> level}"
    levels = len(module.widths)
    table = [*conv(f"enc.{side(0)}_conv", "conv_in"), *mlp("map_layer0", "map_layer1", "time_")]
    if module.clock == "fourier":
        table.append(Row("map_noise.freqs", "frequencies"))
    if module.num_classes:
        table += [Row("map_label.weight", "classes", DENSE), Row("map_label.bias", "classes_bias")]
    if module.augmentations:
        table.append(Row("map_augment.weight", "augment/kernel", DENSE))
    for box, theirs in _song_named(module):
        table += _block_rows(theirs, box.ours, box.shortcut or box.index is None)
        if box.attends:
            table += _attention_rows(theirs, f"{box.ours}_attention")
    for level in range(1, levels) if module.encoder != "standard" else ():
        table += conv(f"enc.{side(level)}_aux_{module.encoder}", f"down_{level}_image")
    for level in range(levels) if module.decoder == "skip" else (0,):
        table += norm(f"dec.{side(level)}_aux_norm", f"norm_out_{level}")
        table += conv(f"dec.{side(level)}_aux_conv", f"conv_out_{level}")
    return table


def _song_computed(module: SongUNet) -> dict[str, Computed]:
    """The filter beside each resampling convolution."""
    levels = range(len(module.widths))
    side = lambda level: f"{module.resolution >> level}x{module.resolution >> level}"
    resampled = [
        f"{theirs}.{part}" for box, theirs in _song_named(module) if box.index is None for part in ("conv0", "skip")
    ]
    for level in levels[1:]:
        resampled += {
            "skip": [f"enc.{side(level)}_aux_down"],
            "residual": [f"enc.{side(level)}_aux_residual"],
            "standard": [],
        }[module.encoder]
    resampled += [f"dec.{side(level)}_aux_up" for level in levels[:-1] if module.decoder == "skip"]
    return _filters(resampled, module.taps)


def _filters(resampled: list[str], taps: tuple[int, ...]) -> dict[str, Computed]:
    line = np.asarray(taps, np.float32) / sum(taps)
    filter_ = Computed((1, 1, len(taps), len(taps)), lambda: np.outer(line, line)[None, None])
    return {f"{layer}.resample_filter": filter_ for layer in resampled}


SONG_CONFIG = FieldTable(
    "SongUNet",
    SongUNet,
    (
        without_default("img_resolution", "resolution", schema.integer()),
        without_default("in_channels", "in_channels", schema.integer()),
        without_default("out_channels", "out_channels", schema.integer()),
        Field("label_dim", "num_classes", 0),
        Field("augment_dim", "augmentations", 0),
        Field("model_channels", "width", 128),
        Field("channel_mult", "multipliers", (1, 2, 2, 2), SIZES),
        Follows("channel_mult_emb", 4, silent=True),
        Field("num_blocks", "blocks", 4, DEPTH),
        Field("attn_resolutions", "attention_resolutions", (16,)),
        Field("dropout", "dropout", 0.1),
        Field("embedding_type", "clock", "positional"),
        Field("channel_mult_noise", "clock_multiplier", 1),
        Field("encoder_type", "encoder", "standard"),
        Field("decoder_type", "decoder", "standard"),
        Field("resample_filter", "taps", (1, 1), SIZES),
    ),
    unread={"label_dropout": None},
)


def _dhariwal_named(module: UNet) -> Iterator[NamedBox]:
    attends = tuple(i in module.attention_levels for i in range(len(module.widths)))
    return named_boxes(module, module.widths[0], attends)


def _dhariwal_rows(module: UNet) -> list[Row]:
    side = module.resolution
    table = [
        *conv(f"enc.{side}x{side}_conv", "conv_in"),
        *mlp("map_layer0", "map_layer1", "time_"),
        *norm("out_norm", "norm_out"),
        *conv("out_conv", "conv_out"),
    ]
    if module.num_classes:
        table.append(Row("map_label.weight", "classes", DENSE))
    for box, theirs in _dhariwal_named(module):
        table += _block_rows(theirs, box.ours, box.shortcut)
        if box.attends:
            ours = "middle_attention" if box.part == "middle" else f"{box.ours}_attention"
            table += _attention_rows(theirs, ours)
    return table


def _dhariwal_computed(module: UNet) -> dict[str, Computed]:
    resampled = [
        f"{theirs}.{part}" for box, theirs in _dhariwal_named(module) if box.index is None for part in ("conv0", "skip")
    ]
    return _filters(resampled, (1, 1))


def _read_levels(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Our widths, and the levels with attention."""
    features = values["model_channels"]
    widths = tuple(features * factor for factor in values["channel_mult"])
    if min(widths) < 128:
        raise ValueError(
            f"the authors' network normalises {min(widths)} channels in fewer than 32 groups, but this library always "
            "uses 32. Valid: at least 128 channels."
        )
    return {
        "widths": widths,
        "features": None if features == widths[0] else features,
        "attention_levels": tuple(
            i for i in range(len(widths)) if ours["resolution"] >> i in values["attn_resolutions"]
        ),
    }


def _write_levels(module: UNet) -> dict[str, Any]:
    """Their widths as multiples of the number of sinusoids, and the sides with attention."""
    features = module.time_features
    if module.resolution is None or min(module.widths) < 128 or any(width % features for width in module.widths):
        raise ValueError(
            "the network must know the side of its pictures (module.clone(resolution=64)), and its widths must be at "
            f"least 128 and multiples of {features}, the number of sinusoids."
        )
    return {
        "model_channels": features,
        "channel_mult": [width // features for width in module.widths],
        "attn_resolutions": [module.resolution >> i for i in module.attention_levels],
    }


DHARIWAL_CONFIG = FieldTable(
    "DhariwalUNet",
    UNet,
    (
        without_default("img_resolution", "resolution", schema.integer()),
        without_default("in_channels", "in_channels", schema.integer()),
        without_default("out_channels", "out_channels", schema.integer()),
        Field("label_dim", "num_classes", 0),
        Follows("augment_dim", 0, silent=True),
        Group(
            {
                "model_channels": (192, None),
                "channel_mult": ((1, 2, 3, 4), SIZES),
                "attn_resolutions": ((32, 16, 8), None),
            },
            _read_levels,
            _write_levels,
        ),
        Follows("channel_mult_emb", 4, silent=True),
        Field("num_blocks", "blocks", 3, DEPTH),
        Field("dropout", "dropout", 0.1),
    ),
    unread={"label_dropout": None},
    required={
        "groups": 32,
        "epsilon": 1e-5,
        "heads": None,
        "head_size": 64,
        "scale_shift": True,
        "resample": "block",
        "frequency_shift": 0,
        "sines_first": False,
        **OF_IMAGES,
        **USUAL,
    },
)


def _published(side: int, **config: Any) -> dict[str, Any]:
    return {"img_resolution": side, "in_channels": 3, "out_channels": 3, **config}


NCSN_PP = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
SONG_PUBLISHED = {
    f"{kind}, {data}{', with classes' * bool(classes)}{'' if augment else ', baseline'}": _published(
        side, **config, channel_mult=levels, label_dim=classes, augment_dim=augment
    )
    for kind, config in (("DDPM++", {}), ("NCSN++", NCSN_PP))
    for data, side, levels, labels in (
        ("CIFAR-10", 32, [2, 2, 2], (0, 10)),
        ("FFHQ and AFHQ 64", 64, [1, 2, 2, 2], (0,)),
    )
    for classes in labels
    for augment in (9, 0)
}
SONG = SONG_CONFIG.family(
    example,
    {"original": _song_rows},
    library="",
    computed=_song_computed,
    published=SONG_PUBLISHED,
    prefixes=("", "model."),
)
DHARIWAL = DHARIWAL_CONFIG.family(
    example,
    {"original": _dhariwal_rows},
    library="",
    computed=_dhariwal_computed,
    prefixes=("", "model."),
    published={
        "ADM of EDM, ImageNet 64": _published(64, label_dim=1000),
        "ADM of EDM, ImageNet 64, baseline": _published(64, label_dim=1000) | {"out_channels": 6},
    },
)
FAMILIES = (SONG, DHARIWAL)
