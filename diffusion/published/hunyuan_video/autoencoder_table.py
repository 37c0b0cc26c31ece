"""HunyuanVideo's autoencoder by diffusers' names, AutoencoderKLHunyuanVideo."""

from diffusion.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusion.models.interchange.autoencoder_tables import levels_of, one_scale
from diffusion.models.interchange.family import LAYERS, SIZES
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import Row, linear, norm
from diffusion.published.wan.autoencoder_table import PIXEL, video, video_conv, video_rows

NAME = "AutoencoderKLHunyuanVideo"
DOWN, UP = "HunyuanVideoDownBlock3D", "HunyuanVideoUpBlock3D"
RATIO = 4  # frames in one of the latent; diffusers decodes no other


def _block(theirs: str, ours: str, shortcut: bool) -> list[Row]:
    rows = []
    for i in (1, 2):
        rows += norm(f"{theirs}.norm{i}", f"{ours}/norm_{i}") + video_conv(f"{theirs}.conv{i}", f"{ours}/conv_{i}")
    return rows + video_conv(f"{theirs}.conv_shortcut", f"{ours}/shortcut") * shortcut


def _rows(module: AutoencoderKLHunyuanVideo) -> list[Row]:
    rows = linear("quant_conv", "moments_conv", PIXEL) + linear("post_quant_conv", "latents_conv", PIXEL)
    for side in ("encoder", "decoder"):
        rows += norm(f"{side}.conv_norm_out", f"{side}/norm_out")
        if module.mixes:
            theirs, ours = f"{side}.mid_block.attentions.0", f"{side}/mixing"
            rows += norm(f"{theirs}.group_norm", f"{ours}/norm") + linear(f"{theirs}.to_out.0", f"{ours}/project")
            rows += [
                row for name in ("query", "key", "value") for row in linear(f"{theirs}.to_{name[0]}", f"{ours}/{name}")
            ]
    return rows + video_rows(module, _block, video_conv)


CONFIG = FieldTable(
    NAME,
    AutoencoderKLHunyuanVideo,
    (
        Field("in_channels", "picture_channels", 3),
        Follows("out_channels", lambda module: module.picture_channels),
        Field("latent_channels", "latent_channels", 16),
        levels_of("down_block_types", DOWN),
        levels_of("up_block_types", UP),
        Field("block_out_channels", "widths", (128, 256, 512, 512), SIZES),
        Field("layers_per_block", "layers", 2, LAYERS),
        Follows("act_fn", "silu"),
        Field("norm_num_groups", "groups", 32),
        one_scale(0.476986),
        Follows("spatial_compression_ratio", lambda module: module.factor, default=8),
        Follows("temporal_compression_ratio", RATIO),
        Field("mid_block_add_attention", "mixes", True),
    ),
    required={"halvings": RATIO.bit_length() - 1},
)


FAMILY = CONFIG.family(video, {"diffusers": _rows}, published={"HunyuanVideo": {}})
FAMILIES = {FAMILY.name: FAMILY}
