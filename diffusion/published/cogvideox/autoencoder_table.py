"""The table of CogVideoX's autoencoder in the layout of diffusers' AutoencoderKLCogVideoX."""

from diffusion.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusion.models.interchange.autoencoder_tables import levels_of, one_scale
from diffusion.models.interchange.family import LAYERS, SIZES, array
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Follows
from diffusion.models.interchange.rows import CONV, Row, linear
from diffusion.published.wan.autoencoder_table import PIXEL, video_conv, video_rows

NAME = "AutoencoderKLCogVideoX"
DOWN, UP = "CogVideoXDownBlock3D", "CogVideoXUpBlock3D"


def _norm(theirs: str, ours: str) -> list[Row]:
    scaled = ours.startswith("decoder")  # the latents scale and shift the decoder's norms
    inner = ".norm_layer" * scaled
    rows = [Row(f"{theirs}{inner}.weight", f"{ours}/norm/scale"), Row(f"{theirs}{inner}.bias", f"{ours}/norm/bias")]
    for name, layer in (("y", "scale"), ("b", "shift")):
        rows += linear(f"{theirs}.conv_{name}.conv", f"{ours}/{layer}", PIXEL) * scaled
    return rows


def _block(theirs: str, ours: str, shortcut: bool) -> list[Row]:
    rows = []
    for i in (1, 2):
        rows += _norm(f"{theirs}.norm{i}", f"{ours}/norm_{i}")
        rows += video_conv(f"{theirs}.conv{i}", f"{ours}/conv_{i}")
    return rows + linear(f"{theirs}.conv_shortcut", f"{ours}/shortcut", PIXEL) * shortcut


def _rows(module: AutoencoderKLCogVideoX) -> list[Row]:
    norms = _norm("encoder.norm_out", "encoder/norm_out") + _norm("decoder.norm_out", "decoder/norm_out")
    return norms + video_rows(module, _block, lambda theirs, ours: linear(theirs, ours, CONV))


CONFIG = FieldTable(
    NAME,
    AutoencoderKLCogVideoX,
    (
        Field("in_channels", "picture_channels", 3),
        Follows("out_channels", lambda module: module.picture_channels),
        levels_of("down_block_types", DOWN),
        levels_of("up_block_types", UP),
        Field("block_out_channels", "widths", (128, 256, 256, 512), SIZES),
        Field("latent_channels", "latent_channels", 16),
        Field("layers_per_block", "layers", 3, LAYERS),
        Follows("act_fn", "silu"),
        Follows("norm_eps", 1e-6),
        Field("norm_num_groups", "groups", 32),
        Choice("temporal_compression_ratio", "halvings", {4: 2, 1: 0, 2: 1, 8: 3, 16: 4}),
        one_scale(1.15258426),
        Field("invert_scale_latents", "inverted", False, read=lambda inverted, ours: bool(inverted)),
        Follows("use_quant_conv", False),
        Follows("use_post_quant_conv", False),
        *(Follows(name, None, silent=True) for name in ("shift_factor", "latents_mean", "latents_std")),
    ),
    # Fields that do not change the network: the size of training pictures, and the precision of the pipeline.
    unread=dict.fromkeys(("sample_height", "sample_width", "force_upcast")),
)


def _example(module: AutoencoderKLCogVideoX) -> tuple:
    return (array(1, 1 + 2 * module.time_factor, module.factor, module.factor, module.picture_channels),)


FAMILY = CONFIG.family(
    _example, {"diffusers": _rows}, published={"CogVideoX 2b": {}, "CogVideoX 5b": {"scaling_factor": 0.7}}
)
FAMILIES = {FAMILY.name: FAMILY}
