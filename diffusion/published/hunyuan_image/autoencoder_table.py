"""The table of HunyuanImage 2.1's autoencoder in the layout of diffusers' AutoencoderKLHunyuanImage."""

from diffusion.models.autoencoders.autoencoder_kl_hunyuan_image import AutoencoderKLHunyuanImage
from diffusion.models.interchange.autoencoder_tables import DIFFUSERS, block_rows, mixing_rows, one_scale, picture
from diffusion.models.interchange.family import LAYERS, SIZES
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import POINT, Row, conv, norm, within

NAMES = DIFFUSERS._replace(mixing=("norm", "to_q", "to_k", "to_v", "proj"), point=POINT)


def _side(module: AutoencoderKLHunyuanImage, encoder: bool) -> list[Row]:
    """The rows of the encoder or the decoder, in which blocks and changes of the sides share one numbered list."""
    rows = conv("conv_in", "conv_in") + conv("conv_out", "conv_out") + norm("norm_out", "norm_out")
    for k in (0, 1):
        rows += block_rows(NAMES, f"mid_block.resnets.{k}", f"middle/block_{k}", False)
    rows += mixing_rows(NAMES, "mid_block.attentions.0", "middle/mixing_0")
    last = len(module.widths) - 1
    blocks, change = ("down_blocks", "down") if encoder else ("up_blocks", "up")
    layers, place = (module.layers if encoder else module.layers + 1), 0
    for i in range(last + 1) if encoder else reversed(range(last + 1)):
        for j in range(layers):
            rows += block_rows(NAMES, f"{blocks}.{place + j}", f"level_{i}/block_{j}", False)
        place += layers
        if i < last if encoder else i > 0:
            rows += conv(f"{blocks}.{place}.conv", f"{change}_{i}")
            place += 1
    return rows


def _rows(module: AutoencoderKLHunyuanImage) -> list[Row]:
    return [*within(_side(module, True), "encoder.", "encoder/"), *within(_side(module, False), "decoder.", "decoder/")]


CONFIG = FieldTable(
    "AutoencoderKLHunyuanImage",
    AutoencoderKLHunyuanImage,
    (
        Field("in_channels", "picture_channels", 3),
        Follows("out_channels", lambda module: module.picture_channels),
        Field("latent_channels", "latent_channels", 64),
        Field("block_out_channels", "widths", (128, 256, 512, 512, 1024, 1024), SIZES),
        Field("layers_per_block", "layers", 2, LAYERS),
        Follows("spatial_compression_ratio", lambda module: module.factor),
        Follows("downsample_match_channel", True),
        Follows("upsample_match_channel", True),
        one_scale(0.75289),
    ),
    unread={"sample_size": 384},
    required={"groups": 32},
)
FAMILY = CONFIG.family(picture, {"diffusers": _rows}, published={"HunyuanImage-2.1": {}})
FAMILIES = {FAMILY.name: FAMILY}
