"""LTX-2's autoencoder of clips by diffusers' names, AutoencoderKLLTX2Video: LTX-Video's, of 2.0 with mirrored edges."""

from collections.abc import Mapping
from typing import Any

from diffusion.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from diffusion.models.interchange.family import SCALE, SIZE, SIZES, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import Row
from diffusion.published.ltx_video.autoencoder_table import (
    COUNTS,
    FLAGS,
    NAMES,
    decoder_rows,
    encoder_rows,
    statistics,
    with_statistics,
)

NAME = "AutoencoderKLLTX2Video"
LEVEL = "LTX2VideoDownBlock3D"
HALVE = ("spatial", "temporal", "spatiotemporal", "spatiotemporal")


def _rows(module: AutoencoderKLLTX) -> list[Row]:
    return encoder_rows(module) + decoder_rows(module)


def _read_levels(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Our widths, and how each level of the encoder halves; its first convolution has the channels of the latents."""
    widths, kinds, scaled, types = values.values()
    if set(kinds) != {LEVEL} or not len(widths) == len(kinds) == len(scaled) == len(types) or not all(scaled):
        raise ValueError(
            f"block_out_channels, down_block_types ({LEVEL} alone), downsample_type and spatio_temporal_scaling (true) "
            f"must have one entry for each level; got {widths}, {kinds}, {types} and {scaled}."
        )
    return {"widths": (ours["latent_channels"], *widths), "halve": types}


def _write_levels(module: AutoencoderKLLTX) -> dict[str, Any]:
    if module.widths[0] != module.latent_channels or not {"", "conv"}.isdisjoint(module.halve):
        raise ValueError("the encoder must begin with the channels of its latents, and all levels must fold.")
    levels = len(module.halve)
    return {
        "block_out_channels": list(module.widths[1:]),
        "down_block_types": [LEVEL] * levels,
        "spatio_temporal_scaling": [True] * levels,
        "downsample_type": list(module.halve),
    }


def _read_decoder(values: dict[str, Any], _: Any) -> dict[str, Any]:
    """What each level of the decoder doubles, which their config states from the latents' side on."""
    double, narrowing, types, edges = values.values()
    if len(types) != len(double) or not all(double):
        raise ValueError(
            "each level of the decoder must double its sides, its frames or both; not so with "
            f"decoder_spatio_temporal_scaling = {double} and upsample_type = {types}."
        )
    reflects = edges == "reflect"
    plain = reflects and set(types) == {"spatiotemporal"}
    return {"double": double, "narrowing": narrowing, "reflects": reflects, "doubling": () if plain else types[::-1]}


def _write_decoder(module: AutoencoderKLLTX) -> dict[str, Any]:
    if not all(module.double) or not (module.reflects or module.doubling):
        raise ValueError(
            "each level of the decoder must double its input, and either mirror pixels or state what it doubles."
        )
    types = list(module.doubling[::-1] or ("spatiotemporal",) * len(module.double))
    edges = "reflect" if module.reflects else "zeros"
    return dict(zip(DECODER, (list(module.double), list(module.narrowing), types, edges)))


DECODER = {
    "decoder_spatio_temporal_scaling": ((True, True, True), FLAGS),
    "upsample_factor": ((2, 2, 2), SIZES),
    "upsample_type": (("spatiotemporal",) * 3, NAMES),
    "decoder_spatial_padding_mode": ("reflect", ["reflect", "zeros"]),
}
CONFIG = FieldTable(
    NAME,
    AutoencoderKLLTX,
    (
        Follows("resnet_norm_eps", 1e-6),
        Follows("encoder_causal", True),
        Follows("decoder_causal", False, default=True),
        Follows("encoder_spatial_padding_mode", "zeros"),
        Follows("patch_size_t", 1),
        Field("in_channels", "picture_channels", 3, SIZE),
        Follows("out_channels", lambda module: module.picture_channels),
        Field("latent_channels", "latent_channels", 128, SIZE),
        Group(
            {
                "block_out_channels": ((256, 512, 1024, 2048), SIZES),
                "down_block_types": ((LEVEL,) * 4, NAMES),
                "spatio_temporal_scaling": ((True,) * 4, FLAGS),
                "downsample_type": (HALVE, NAMES),
            },
            _read_levels,
            _write_levels,
        ),
        Field("layers_per_block", "layers", (4, 6, 6, 2, 2), COUNTS),
        Field("decoder_block_out_channels", "decoder_widths", (256, 512, 1024), SIZES),
        Field("decoder_layers_per_block", "decoder_layers", (5, 5, 5, 5), COUNTS),
        Group(DECODER, _read_decoder, _write_decoder),
        Field("upsample_residual", "residual", (True,) * 3, FLAGS),
        Field("decoder_inject_noise", "noise", (False,) * 4, FLAGS),
        Field("timestep_conditioning", "timed", False),
        Field("patch_size", "patch", 4, SIZE),
        # When written, the whole scale is in the tensors.
        Field("scaling_factor", "scale", 1.0, SCALE, write=lambda module: 1.0),
        Follows("spatial_compression_ratio", lambda module: module.factor, optional=True),
        Follows("temporal_compression_ratio", lambda module: module.time_factor, optional=True),
    ),
)


def _example(module: AutoencoderKLLTX) -> tuple:
    return (array(1, 1 + module.time_factor, 2 * module.factor, 2 * module.factor, module.picture_channels),)


FAMILY = CONFIG.family(
    _example,
    {"diffusers": _rows},
    computed=statistics,
    varied=with_statistics,
    published={"LTX-2": {"decoder_causal": False}},
)
FAMILIES = {FAMILY.name: FAMILY}
