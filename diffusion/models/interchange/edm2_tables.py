"""EDM2's U-Net by the names of its authors' repository; a config holds the arguments of its UNet.

The authors publish pickles, which this library does not read: if you trust one, write its weights to safetensors with
their program. In the file of a whole Precond the names have the prefix "unet.". Its uncertainty ("logvar_") is skipped:
only training uses it, and `objectives.uncertainty` has its own.
"""

from diffusion.io import schema
from diffusion.models.edm2_unet import WIDTHS, EDM2UNet
from diffusion.models.interchange.attention_layouts import interleaved, point_out
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZES
from diffusion.models.interchange.field_table import Field, FieldTable, without_default
from diffusion.models.interchange.rows import CONV, DENSE, Layout, Row
from diffusion.models.interchange.unet_boxes import example, named_after_level, named_boxes


def _kernel(theirs: str, ours: str, layout: Layout = CONV) -> Row:
    return Row(f"{theirs}.weight", f"{ours}/kernel", layout)


def _rows(module: EDM2UNet) -> list[Row]:
    side = module.resolution
    table = [
        Row("emb_fourier.freqs", "fourier/frequencies"), Row("emb_fourier.phases", "fourier/phases"),
        _kernel("emb_noise", "noise", DENSE), _kernel(f"enc.{side}x{side}_conv", "conv_in"),
        _kernel("out_conv", "conv_out"), Row("out_gain", "gain"),
    ]  # fmt: skip
    if module.num_classes:
        table.append(_kernel("emb_label", "class", DENSE))
    attends = tuple(map(module.attends, range(len(module.widths))))
    for box, theirs in named_boxes(module, module.widths[0], attends):
        ours = named_after_level(box).ours
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


CONFIG = FieldTable(
    "EDM2UNet",
    EDM2UNet,
    (
        without_default("img_resolution", "resolution", schema.integer()),
        without_default("img_channels", "channels", schema.integer()),
        without_default("label_dim", "num_classes", schema.integer()),
        Field("model_channels", "width", 192),
        Field("channel_mult", "multipliers", (1, 2, 3, 4), SIZES),
        Field("channel_mult_noise", "noise_multiplier", None, MAYBE_SIZE),
        Field("channel_mult_emb", "embedding_multiplier", None, MAYBE_SIZE),
        Field("num_blocks", "blocks", 3, DEPTH),
        Field("attn_resolutions", "attention_resolutions", (16, 8)),
        Field("label_balance", "label_balance", 0.5),
        Field("concat_balance", "concat_balance", 0.5),
        Field("res_balance", "residual_balance", 0.3),
        Field("attn_balance", "attention_balance", 0.3),
        Field("channels_per_head", "head_size", 64),
        Field("resample_filter", "taps", (1, 1), SIZES),
        Field("dropout", "dropout", 0.0),
        Field("clip_act", "clip", 256.0),
    ),
)
PUBLISHED = {
    f"EDM2-{size}, ImageNet {side}{'' if classes else ', without classes'}": {
        "img_resolution": 64,
        "img_channels": channels,
        "label_dim": classes,
        "model_channels": width,
    }
    for side, channels in ((512, 4), (64, 3))
    for size, width in WIDTHS.items()
    for classes in (1000, 0)  # the unconditional networks guide the others (Karras et al., 2024, section 5.2)
    if side == 512 or size not in ("XXS", "XXL")
}
FAMILY = CONFIG.family(example, {"original": _rows}, library="", published=PUBLISHED, prefixes=("", "unet."))
