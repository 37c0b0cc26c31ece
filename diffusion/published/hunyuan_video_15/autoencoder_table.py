"""HunyuanVideo 1.5's autoencoder by diffusers' names, AutoencoderKLHunyuanVideo15."""

from diffusion.models.autoencoders.autoencoder_kl_hunyuan_video_15 import AutoencoderKLHunyuanVideo15
from diffusion.models.interchange.autoencoder_tables import one_scale
from diffusion.models.interchange.family import LAYERS, SIZES
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import Row, linear
from diffusion.published.wan.autoencoder_table import PIXEL, VIDEO_SCALE, video, video_conv, video_rows

NAME = "AutoencoderKLHunyuanVideo15"
RATIO = 4  # frames in one of the latent


def _block(theirs: str, ours: str, shortcut: bool) -> list[Row]:
    """The rows of a block; `shortcut` has no effect, since a change of the sides changes the width."""
    rows = []
    for i in (1, 2):
        rows += [Row(f"{theirs}.norm{i}.gamma", f"{ours}/norm_{i}/scale", VIDEO_SCALE)]
        rows += video_conv(f"{theirs}.conv{i}", f"{ours}/conv_{i}")
    return rows


def _rows(module: AutoencoderKLHunyuanVideo15) -> list[Row]:
    rows = []
    for side in ("encoder", "decoder"):
        rows += [Row(f"{side}.norm_out.gamma", f"{side}/norm_out/scale", VIDEO_SCALE)]
        theirs, ours = f"{side}.mid_block.attentions.0", f"{side}/mixing"
        rows += [Row(f"{theirs}.norm.gamma", f"{ours}/norm/scale", VIDEO_SCALE)]
        for name in ("query", "key", "value"):
            rows += linear(f"{theirs}.to_{name[0]}", f"{ours}/{name}", PIXEL)
        rows += linear(f"{theirs}.proj_out", f"{ours}/project", PIXEL)
    return rows + video_rows(module, _block, video_conv)


CONFIG = FieldTable(
    NAME,
    AutoencoderKLHunyuanVideo15,
    (
        Field("in_channels", "picture_channels", 3),
        Follows("out_channels", lambda module: module.picture_channels),
        Field("latent_channels", "latent_channels", 32),
        Field("block_out_channels", "widths", (128, 256, 512, 1024, 1024), SIZES),
        Field("layers_per_block", "layers", 2, LAYERS),
        Follows("spatial_compression_ratio", lambda module: module.factor, default=16),
        Follows("temporal_compression_ratio", RATIO),
        Follows("downsample_match_channel", True),
        Follows("upsample_match_channel", True),
        one_scale(1.03682),
    ),
    required={"halvings": RATIO.bit_length() - 1},
)
FAMILY = CONFIG.family(video, {"diffusers": _rows}, published={"HunyuanVideo-1.5": {}})
FAMILIES = {FAMILY.name: FAMILY}
