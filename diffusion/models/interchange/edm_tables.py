"""EDM's U-Nets, SongUNet (DDPM++, NCSN++) and DhariwalUNet (ADM), by the names of their authors' repository.

A config holds the arguments of the class. The authors publish pickles, which this library does not read: if you trust
one, write its weights to safetensors with their program. In the file of a whole EDMPrecond the names have the prefix
"model."; its clock is ln(sigma) / 4 (`parameterizations.edm`).
"""

__all__ = ["Named"]

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion.models.interchange.attention_layouts import fused, point_out
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZES, Computed, Family, Fields, Refusal
from diffusion.models.interchange.rows import DENSE, Row, linear
from diffusion.models.interchange.unet_boxes import OF_IMAGES, Box, boxes, conv_rows, example, norm_rows, only
from diffusion.models.song_unet import SongUNet
from diffusion.models.unet import UNet


class Named(NamedTuple):
    """A box with its name in their files.

    Attributes:
        box: the box, with our path and the level of its output's side.
        theirs: their name, "enc.32x32_block0".
    """

    box: Box
    theirs: str


def _named(module: SongUNet | UNet, first: int, attends: tuple[bool, ...]) -> Iterator[Named]:
    """The boxes of a network with their names; both authors' networks have the same."""
    if (resolution := module.resolution) is None:
        raise Refusal("this network has no resolution, which the names contain; use module.clone(resolution=64)")
    for box in boxes(module.widths, first, module.blocks, attends):
        level = box.level
        if box.index is None:
            level += 1 if box.part == "down" else -1
        kind = {"middle": f"in{box.index}"}.get(box.part, f"block{box.index}") if box.index is not None else box.part
        side = resolution >> level
        yield Named(box._replace(level=level), f"{'enc' if box.part == 'down' else 'dec'}.{side}x{side}_{kind}")


def _block_rows(theirs: str, ours: str, shortcut: bool) -> list[Row]:
    rows = linear(f"{theirs}.affine", f"{ours}/time")
    for k in (0, 1):
        rows += norm_rows(f"{theirs}.norm{k}", f"{ours}/norm_{k + 1}")
        rows += conv_rows(f"{theirs}.conv{k}", f"{ours}/conv_{k + 1}")
    return rows + (conv_rows(f"{theirs}.skip", f"{ours}/shortcut") if shortcut else [])


def _attention_rows(theirs: str, ours: str) -> list[Row]:
    kernel, bias = fused("hdi", ones=2)
    return [
        *norm_rows(f"{theirs}.norm2", f"{ours}/norm"),
        Row(f"{theirs}.qkv.weight", f"{ours}/qkv/kernel", kernel),
        Row(f"{theirs}.qkv.bias", f"{ours}/qkv/bias", bias),
        *conv_rows(f"{theirs}.proj", f"{ours}/out", point_out(2)),
    ]


def _song_named(module: SongUNet) -> Iterator[Named]:
    """On the way up only the last block of a level has attention."""
    for box, theirs in _named(module, module.width, tuple(map(module.attends, range(len(module.widths))))):
        last = box.part != "up" or box.index == module.blocks
        yield Named(box._replace(ours=_song_path(box), attends=box.attends and last), theirs)


def _song_path(box: Box) -> str:
    """Our path of a box of SongUNet, where a change of side has the number of the level after it."""
    return box.ours if box.index is not None else f"{box.part}_{box.level}_resample"


def _song_rows(module: SongUNet) -> list[Row]:
    side = lambda level: f"{module.resolution >> level}x{module.resolution >> level}"
    levels = len(module.widths)
    table = [
        *conv_rows(f"enc.{side(0)}_conv", "conv_in"),
        *linear("map_layer0", "time_hidden"),
        *linear("map_layer1", "time_out"),
    ]
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
        table += conv_rows(f"enc.{side(level)}_aux_{module.encoder}", f"down_{level}_image")
    for level in range(levels) if module.decoder == "skip" else (0,):
        table += norm_rows(f"dec.{side(level)}_aux_norm", f"norm_out_{level}")
        table += conv_rows(f"dec.{side(level)}_aux_conv", f"conv_out_{level}")
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


def _build_song(config: Mapping[str, Any]) -> SongUNet:
    fields = Fields("SongUNet", config, ("label_dropout",))
    fields.only("channel_mult_emb", 4)
    module = SongUNet(
        resolution=_said(fields, "img_resolution"),
        width=fields.take("model_channels", 128),
        multipliers=fields.take("channel_mult", (1, 2, 2, 2), SIZES),
        blocks=fields.take("num_blocks", 4, DEPTH),
        attention_resolutions=fields.take("attn_resolutions", (16,)),
        num_classes=fields.take("label_dim", 0),
        augmentations=fields.take("augment_dim", 0),
        in_channels=_said(fields, "in_channels"),
        out_channels=_said(fields, "out_channels"),
        dropout=fields.take("dropout", 0.1),
        clock=fields.take("embedding_type", "positional"),
        clock_multiplier=fields.take("channel_mult_noise", 1),
        encoder=fields.take("encoder_type", "standard"),
        decoder=fields.take("decoder_type", "standard"),
        taps=fields.take("resample_filter", (1, 1), SIZES),
    )
    fields.end()
    return module


def _said(fields: Fields, name: str) -> Any:
    value = fields.take(name, None, MAYBE_SIZE)
    if value is None:
        raise Refusal(f"{fields.name}: the config has no {name}.")
    return value


def _describe_song(module: SongUNet) -> dict[str, Any]:
    return {
        "img_resolution": module.resolution,
        "in_channels": module.in_channels,
        "out_channels": module.out_channels,
        "label_dim": module.num_classes,
        "augment_dim": module.augmentations,
        "model_channels": module.width,
        "channel_mult": list(module.multipliers),
        "num_blocks": module.blocks,
        "attn_resolutions": list(module.attention_resolutions),
        "dropout": module.dropout,
        "embedding_type": module.clock,
        "channel_mult_noise": module.clock_multiplier,
        "encoder_type": module.encoder,
        "decoder_type": module.decoder,
        "resample_filter": list(module.taps),
    }


def _dhariwal_named(module: UNet) -> Iterator[Named]:
    attends = tuple(i in module.attention_levels for i in range(len(module.widths)))
    return _named(module, module.widths[0], attends)


def _dhariwal_rows(module: UNet) -> list[Row]:
    side = module.resolution
    table = [
        *conv_rows(f"enc.{side}x{side}_conv", "conv_in"),
        *linear("map_layer0", "time_hidden"),
        *linear("map_layer1", "time_out"),
        *norm_rows("out_norm", "norm_out"),
        *conv_rows("out_conv", "conv_out"),
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


def _build_dhariwal(config: Mapping[str, Any]) -> UNet:
    fields = Fields("DhariwalUNet", config, ("label_dropout",))
    fields.only("channel_mult_emb", 4)
    fields.only("augment_dim", 0)
    features = fields.take("model_channels", 192)
    side = _said(fields, "img_resolution")
    widths = tuple(features * one for one in fields.take("channel_mult", (1, 2, 3, 4), SIZES))
    if min(widths) < 128:
        raise Refusal(
            f"DhariwalUNet: {min(widths)} channels are normalised in fewer than 32 groups there; this "
            "network always has 32."
        )
    module = UNet(
        widths=widths,
        blocks=fields.take("num_blocks", 3, DEPTH),
        num_classes=fields.take("label_dim", 0),
        attention_levels=tuple(
            i for i in range(len(widths)) if side >> i in fields.take("attn_resolutions", (32, 16, 8))
        ),
        in_channels=_said(fields, "in_channels"),
        out_channels=_said(fields, "out_channels"),
        heads=None,
        head_size=64,
        scale_shift=True,
        resample="block",
        features=None if features == widths[0] else features,
        dropout=fields.take("dropout", 0.1),
        resolution=side,
    )
    fields.end()
    return module


def _describe_dhariwal(module: UNet) -> dict[str, Any]:
    only(
        "DhariwalUNet",
        module,
        groups=(32,),
        epsilon=(1e-5,),
        head_size=(64,),
        scale_shift=(True,),
        resample=("block",),
        frequency_shift=(0,),
        sines_first=(False,),
        **OF_IMAGES,
    )
    features = module.time_features
    if module.resolution is None or min(module.widths) < 128 or any(width % features for width in module.widths):
        raise Refusal(
            "DhariwalUNet: it needs the side of its pictures (module.clone(resolution=64)), and its widths "
            f"are at least 128 and multiples of the sinusoids, {features}."
        )
    return {
        "img_resolution": module.resolution,
        "in_channels": module.in_channels,
        "out_channels": module.out_channels,
        "label_dim": module.num_classes,
        "model_channels": features,
        "channel_mult": [width // features for width in module.widths],
        "num_blocks": module.blocks,
        "attn_resolutions": [module.resolution >> i for i in module.attention_levels],
        "dropout": module.dropout,
    }


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
SONG = Family(
    "SongUNet",
    SongUNet,
    _build_song,
    _describe_song,
    example,
    {"original": _song_rows},
    library="",
    computed=_song_computed,
    published=SONG_PUBLISHED,
    prefixes=("", "model."),
)
DHARIWAL = Family(
    "DhariwalUNet",
    UNet,
    _build_dhariwal,
    _describe_dhariwal,
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
