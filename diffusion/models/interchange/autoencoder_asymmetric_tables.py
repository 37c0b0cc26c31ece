"""AsymmetricAutoencoderKL by diffusers' names."""

from typing import Any

from diffusion.models.autoencoders.autoencoder_kl_asymmetric import AsymmetricAutoencoderKL, condition_widths
from diffusion.models.interchange.autoencoder_tables import DIFFUSERS, one_scale, picture, side_rows
from diffusion.models.interchange.family import DEPTH, SIZES
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import CONV, Row, linear, within


def _rows(module: AsymmetricAutoencoderKL) -> list[Row]:
    rows = within(side_rows(module.encoder_options, DIFFUSERS, True), "encoder.", "encoder/")
    rows += within(side_rows(module.decoder_options, DIFFUSERS, False), "decoder.", "decoder/")
    for i in range(len(condition_widths(module.decoder_widths))):
        rows += linear(f"decoder.condition_encoder.layers.{i}", f"condition_encoder/conv_{i}", CONV)
    rows += linear("quant_conv", "moments_conv", CONV)
    return rows + linear("post_quant_conv", "latents_conv", CONV)


def _levels(field: str, widths: str, kind: str) -> Follows:
    """The field with the types of the blocks of the encoder or the decoder; no level of it has attention."""
    return Follows(field, lambda module: (kind,) * len(getattr(module, widths)))


CONFIG = FieldTable(
    "AsymmetricAutoencoderKL",
    AsymmetricAutoencoderKL,
    (
        Field("in_channels", "picture_channels", 3),
        Follows("out_channels", lambda module: module.picture_channels),
        Field("down_block_out_channels", "widths", (64,), SIZES),
        _levels("down_block_types", "widths", "DownEncoderBlock2D"),
        Field("layers_per_down_block", "layers", 1, DEPTH),
        Field("up_block_out_channels", "decoder_widths", (64,), SIZES),
        _levels("up_block_types", "decoder_widths", "UpDecoderBlock2D"),
        Field("layers_per_up_block", "decoder_layers", 1, DEPTH),
        Follows("act_fn", "silu"),
        Field("latent_channels", "latent_channels", 4),
        Field("norm_num_groups", "groups", 32),
        one_scale(0.18215),
        # diffusers' class adds this field to its config itself.
        Follows("block_out_channels", lambda module: module.decoder_widths, silent=True),
    ),
    unread={"sample_size": None, "force_upcast": None},
)


def _published(widths: tuple[int, ...], layers: int) -> dict[str, Any]:
    return {
        "down_block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "layers_per_down_block": 2,
        "up_block_out_channels": widths,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_up_block": layers,
    }


FAMILY = CONFIG.family(
    picture,
    {"diffusers": _rows},
    published={"x 1.5": _published((192, 384, 768, 768), 3), "x 2": _published((256, 512, 1024, 1024), 5)},
)
