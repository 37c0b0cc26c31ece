"""EDM2's U-Net by the names of its authors' repository; a config holds the arguments of its UNet.

The authors publish pickles, which this library does not read: if you trust one, write its weights to safetensors with
their program. In the file of a whole Precond the names have the prefix "unet.". Its uncertainty ("logvar_") is skipped:
only training uses it, and `objectives.uncertainty` has its own.
"""

__all__ = []

from collections.abc import Mapping
from typing import Any

from diffusion.models.edm2_unet import WIDTHS, EDM2UNet
from diffusion.models.interchange.attention_layouts import interleaved, point_out
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZES, Family, Fields, Refusal
from diffusion.models.interchange.rows import CONV, DENSE, Layout, Row
from diffusion.models.interchange.unet_boxes import boxes, example

NAME = "EDM2UNet"


def _kernel(theirs: str, ours: str, layout: Layout = CONV) -> Row:
    return Row(f"{theirs}.weight", f"{ours}/kernel", layout)


def _rows(module: EDM2UNet) -> list[Row]:
    side = lambda level: f"{module.resolution >> level}x{module.resolution >> level}"
    table = [
        Row("emb_fourier.freqs", "fourier/frequencies"), Row("emb_fourier.phases", "fourier/phases"),
        _kernel("emb_noise", "noise", DENSE), _kernel(f"enc.{side(0)}_conv", "conv_in"),
        _kernel("out_conv", "conv_out"), Row("out_gain", "gain"),
    ]  # fmt: skip
    if module.num_classes:
        table.append(_kernel("emb_label", "class", DENSE))
    attends = tuple(map(module.attends, range(len(module.widths))))
    for box in boxes(module.widths, module.widths[0], module.blocks, attends):
        ours = box.ours
        level = box.level
        name = f"block{box.index}"
        if box.part == "middle":
            name = f"in{box.index}"
        elif box.index is None:  # our names have the level after it
            level += 1 if box.part == "down" else -1
            ours = f"{box.part}_{level}_resample"
            name = box.part
        theirs = f"{'enc' if box.part == 'down' else 'dec'}.{side(level)}_{name}"
        table += [
            Row(f"{theirs}.emb_gain", f"{ours}/embedding_gain"),
            _kernel(f"{theirs}.conv_res0", f"{ours}/conv_1"),
            _kernel(f"{theirs}.conv_res1", f"{ours}/conv_2"),
            _kernel(f"{theirs}.emb_linear", f"{ours}/embedding", DENSE),
        ]
        if box.shortcut:
            table.append(_kernel(f"{theirs}.conv_skip", f"{ours}/skip"))
        if box.attends:
            table.append(_kernel(f"{theirs}.attn_qkv", f"{ours}/attention_qkv", interleaved(ones=2)))
            table.append(_kernel(f"{theirs}.attn_proj", f"{ours}/attention_out", point_out(2)))
    return table


def _build(config: Mapping[str, Any]) -> EDM2UNet:
    fields = Fields(NAME, config)
    for field in ("img_resolution", "img_channels", "label_dim"):
        if fields.take(field, None, MAYBE_SIZE) is None:
            raise Refusal(f"{NAME}: the config has no {field}.")
    module = EDM2UNet(
        resolution=config["img_resolution"],
        channels=config["img_channels"],
        num_classes=config["label_dim"],
        width=fields.take("model_channels", 192),
        multipliers=fields.take("channel_mult", (1, 2, 3, 4), SIZES),
        noise_multiplier=fields.take("channel_mult_noise", None, MAYBE_SIZE),
        embedding_multiplier=fields.take("channel_mult_emb", None, MAYBE_SIZE),
        blocks=fields.take("num_blocks", 3, DEPTH),
        attention_resolutions=fields.take("attn_resolutions", (16, 8)),
        label_balance=fields.take("label_balance", 0.5),
        concat_balance=fields.take("concat_balance", 0.5),
        residual_balance=fields.take("res_balance", 0.3),
        attention_balance=fields.take("attn_balance", 0.3),
        head_size=fields.take("channels_per_head", 64),
        taps=fields.take("resample_filter", (1, 1), SIZES),
        dropout=fields.take("dropout", 0.0),
        clip=fields.take("clip_act", 256.0),
    )
    fields.end()
    return module


def _describe(module: EDM2UNet) -> dict[str, Any]:
    return {
        "img_resolution": module.resolution,
        "img_channels": module.channels,
        "label_dim": module.num_classes,
        "model_channels": module.width,
        "channel_mult": list(module.multipliers),
        "channel_mult_noise": module.noise_multiplier,
        "channel_mult_emb": module.embedding_multiplier,
        "num_blocks": module.blocks,
        "attn_resolutions": list(module.attention_resolutions),
        "label_balance": module.label_balance,
        "concat_balance": module.concat_balance,
        "res_balance": module.residual_balance,
        "attn_balance": module.attention_balance,
        "channels_per_head": module.head_size,
        "resample_filter": list(module.taps),
        "dropout": module.dropout,
        "clip_act": module.clip,
    }


PUBLISHED = {
    f"EDM2-{size}, ImageNet {side}{'' if classes else ', without classes'}": {
        "img_resolution": 64,
        "img_channels": channels,
        "label_dim": classes,
        "model_channels": width,
    }
    for side, channels in ((512, 4), (64, 3))
    for size, width in WIDTHS.items()
    for classes in (1000, 0)  # those without guide the others (Karras et al., 2024, section 5.2)
    if side == 512 or size not in ("XXS", "XXL")
}
FAMILY = Family(
    NAME,
    EDM2UNet,
    _build,
    _describe,
    example,
    {"original": _rows},
    library="",
    published=PUBLISHED,
    prefixes=("", "unet."),
)
