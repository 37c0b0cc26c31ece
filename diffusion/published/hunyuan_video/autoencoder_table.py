"""HunyuanVideo's autoencoder by diffusers' names, AutoencoderKLHunyuanVideo."""

__all__ = []

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffusion.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusion.models.interchange.family import DEPTH, SIZE, SIZES, Family, Fields, Refusal
from diffusion.models.interchange.rows import Row, linear
from diffusion.published.wan.autoencoder_table import PIXEL, VIDEO

NAME = "AutoencoderKLHunyuanVideo"
DOWN, UP = "HunyuanVideoDownBlock3D", "HunyuanVideoUpBlock3D"
RATIO = 4  # frames in one of the latent; diffusers decodes no other


def _conv(theirs: str, ours: str) -> list[Row]:
    return linear(f"{theirs}.conv", ours, VIDEO)


def _norm(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")]


def _block(theirs: str, ours: str, shortcut: bool) -> list[Row]:
    rows = []
    for i in (1, 2):
        rows += _norm(f"{theirs}.norm{i}", f"{ours}/norm_{i}") + _conv(f"{theirs}.conv{i}", f"{ours}/conv_{i}")
    return rows + _conv(f"{theirs}.conv_shortcut", f"{ours}/shortcut") * shortcut


def _rows(module: AutoencoderKLHunyuanVideo) -> list[Row]:
    widths, last = module.widths, len(module.widths) - 1
    rows = linear("quant_conv", "moments_conv", PIXEL) + linear("post_quant_conv", "latents_conv", PIXEL)
    for side in ("encoder", "decoder"):
        rows += _conv(f"{side}.conv_in", f"{side}/conv_in") + _conv(f"{side}.conv_out", f"{side}/conv_out")
        rows += _norm(f"{side}.conv_norm_out", f"{side}/norm_out")
        for j in range(2):
            rows += _block(f"{side}.mid_block.resnets.{j}", f"{side}/middle_block_{j}", False)
        if module.mixes:
            theirs, ours = f"{side}.mid_block.attentions.0", f"{side}/mixing"
            rows += _norm(f"{theirs}.group_norm", f"{ours}/norm") + linear(f"{theirs}.to_out.0", f"{ours}/project")
            rows += [
                row for name in ("query", "key", "value") for row in linear(f"{theirs}.to_{name[0]}", f"{ours}/{name}")
            ]
    for i, width in enumerate(widths):
        theirs = f"encoder.down_blocks.{i}"
        for j in range(module.layers):
            new = j == 0 and i > 0 and widths[i - 1] != width
            rows += _block(f"{theirs}.resnets.{j}", f"encoder/level_{i}_block_{j}", new)
        if i < last:
            rows += _conv(f"{theirs}.downsamplers.0.conv", f"encoder/down_{i}")
        theirs = f"decoder.up_blocks.{last - i}"
        for j in range(module.layers + 1):
            new = j == 0 and i < last and widths[i + 1] != width
            rows += _block(f"{theirs}.resnets.{j}", f"decoder/level_{i}_block_{j}", new)
        if i:
            rows += _conv(f"{theirs}.upsamplers.0.conv", f"decoder/up_{i}")
    return rows


def _build(config: Mapping[str, Any]) -> AutoencoderKLHunyuanVideo:
    fields = Fields(NAME, config)
    widths = fields.take("block_out_channels", (128, 256, 512, 512), SIZES)
    levels = lambda field: len(widths) if field in config else 4
    fields.only("down_block_types", (DOWN,) * levels("down_block_types"))
    fields.only("up_block_types", (UP,) * levels("up_block_types"))
    fields.only("act_fn", "silu")
    fields.only("temporal_compression_ratio", RATIO)
    if fields.take("spatial_compression_ratio", 8, SIZE) != 2 ** (len(widths) - 1):
        raise Refusal(
            f"{NAME}: spatial_compression_ratio is supported as {2 ** (len(widths) - 1)}, of each level but one."
        )
    channels = fields.take("in_channels", 3, SIZE)
    fields.only("out_channels", channels)
    try:
        module = AutoencoderKLHunyuanVideo(
            widths=widths,
            layers=fields.take("layers_per_block", 2, DEPTH),
            halvings=RATIO.bit_length() - 1,
            latent_channels=fields.take("latent_channels", 16, SIZE),
            picture_channels=channels,
            groups=fields.take("norm_num_groups", 32, SIZE),
            mixes=fields.take("mid_block_add_attention", True),
            scale=fields.take("scaling_factor", 0.476986),
        )
    except ValueError as why:
        raise Refusal(f"{NAME}: {why}.") from None
    fields.end()
    return module


def _describe(module: AutoencoderKLHunyuanVideo) -> dict[str, Any]:
    if np.ndim(module.scale) or np.any(module.shift) or module.time_factor != RATIO:
        raise Refusal(f"{NAME}: the latents have one scale, no shift, and {RATIO} frames each.")
    return {
        "in_channels": module.picture_channels,
        "out_channels": module.picture_channels,
        "latent_channels": module.latent_channels,
        "down_block_types": [DOWN] * len(module.widths),
        "up_block_types": [UP] * len(module.widths),
        "block_out_channels": list(module.widths),
        "layers_per_block": module.layers,
        "act_fn": "silu",
        "norm_num_groups": module.groups,
        "scaling_factor": module.scale,
        "spatial_compression_ratio": module.factor,
        "temporal_compression_ratio": module.time_factor,
        "mid_block_add_attention": module.mixes,
    }


def _example(module: AutoencoderKLHunyuanVideo) -> tuple:
    shape = (1, 1 + module.time_factor, module.factor, module.factor, module.picture_channels)
    return (jax.ShapeDtypeStruct(shape, np.float32),)


FAMILY = Family(
    NAME, AutoencoderKLHunyuanVideo, _build, _describe, _example, {"diffusers": _rows}, published={"HunyuanVideo": {}}
)
FAMILIES = {FAMILY.name: FAMILY}
