"""CogVideoX's autoencoder by diffusers' names, AutoencoderKLCogVideoX."""

__all__ = []

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffusion.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusion.models.interchange.family import DEPTH, SIZE, SIZES, Family, Fields, Refusal
from diffusion.models.interchange.rows import CONV, Row, linear
from diffusion.published.wan.autoencoder_table import PIXEL, VIDEO

NAME = "AutoencoderKLCogVideoX"
DOWN, UP = "CogVideoXDownBlock3D", "CogVideoXUpBlock3D"
# Of pictures of the training, of memory, and of the latents of image-to-video alone.
WITHOUT_EFFECT = ("sample_height", "sample_width", "force_upcast")


def _conv(theirs: str, ours: str) -> list[Row]:
    return linear(f"{theirs}.conv", ours, VIDEO)


def _norm(theirs: str, ours: str, scaled: bool) -> list[Row]:
    inner = ".norm_layer" * scaled
    rows = [Row(f"{theirs}{inner}.weight", f"{ours}/norm/scale"), Row(f"{theirs}{inner}.bias", f"{ours}/norm/bias")]
    for name, layer in (("y", "scale"), ("b", "shift")):
        rows += linear(f"{theirs}.conv_{name}.conv", f"{ours}/{layer}", PIXEL) * scaled
    return rows


def _block(theirs: str, ours: str, shortcut: bool, scaled: bool) -> list[Row]:
    rows = []
    for i in (1, 2):
        rows += _norm(f"{theirs}.norm{i}", f"{ours}/norm_{i}", scaled)
        rows += _conv(f"{theirs}.conv{i}", f"{ours}/conv_{i}")
    return rows + linear(f"{theirs}.conv_shortcut", f"{ours}/shortcut", PIXEL) * shortcut


def _rows(module: AutoencoderKLCogVideoX) -> list[Row]:
    widths, last = module.widths, len(module.widths) - 1
    rows = []
    for side, scaled in (("encoder", False), ("decoder", True)):
        rows += _conv(f"{side}.conv_in", f"{side}/conv_in") + _conv(f"{side}.conv_out", f"{side}/conv_out")
        rows += _norm(f"{side}.norm_out", f"{side}/norm_out", scaled)
        for j in range(2):
            rows += _block(f"{side}.mid_block.resnets.{j}", f"{side}/middle_block_{j}", False, scaled)
    for i, width in enumerate(widths):
        theirs = f"encoder.down_blocks.{i}"
        for j in range(module.layers):
            new = j == 0 and i > 0 and widths[i - 1] != width
            rows += _block(f"{theirs}.resnets.{j}", f"encoder/level_{i}_block_{j}", new, False)
        if i < last:
            rows += linear(f"{theirs}.downsamplers.0.conv", f"encoder/down_{i}", CONV)
        theirs = f"decoder.up_blocks.{last - i}"
        for j in range(module.layers + 1):
            new = j == 0 and i < last and widths[i + 1] != width
            rows += _block(f"{theirs}.resnets.{j}", f"decoder/level_{i}_block_{j}", new, True)
        if i:
            rows += linear(f"{theirs}.upsamplers.0.conv", f"decoder/up_{i}", CONV)
    return rows


def _build(config: Mapping[str, Any]) -> AutoencoderKLCogVideoX:
    fields = Fields(NAME, config, WITHOUT_EFFECT)
    widths = fields.take("block_out_channels", (128, 256, 256, 512), SIZES)
    fields.only("down_block_types", (DOWN,) * (4 if "down_block_types" not in config else len(widths)))
    fields.only("up_block_types", (UP,) * (4 if "up_block_types" not in config else len(widths)))
    fields.only("act_fn", "silu")
    fields.only("norm_eps", 1e-6)
    fields.only("use_quant_conv", False)
    fields.only("use_post_quant_conv", False)
    fields.only("shift_factor", None)
    fields.only("latents_mean", None)
    fields.only("latents_std", None)
    channels = fields.take("in_channels", 3, SIZE)
    fields.only("out_channels", channels)
    ratio = fields.only("temporal_compression_ratio", *(4, 1, 2, 8, 16)[: max(len(widths), 3)])
    try:
        module = AutoencoderKLCogVideoX(
            widths=widths,
            layers=fields.take("layers_per_block", 3, DEPTH),
            halvings=int(ratio).bit_length() - 1,
            latent_channels=fields.take("latent_channels", 16, SIZE),
            picture_channels=channels,
            groups=fields.take("norm_num_groups", 32, SIZE),
            scale=fields.take("scaling_factor", 1.15258426),
            inverted=bool(fields.take("invert_scale_latents", False)),
        )
    except ValueError as why:
        raise Refusal(f"{NAME}: {why}.") from None
    fields.end()
    return module


def _describe(module: AutoencoderKLCogVideoX) -> dict[str, Any]:
    if np.ndim(module.scale) or np.any(module.shift):
        raise Refusal(f"{NAME}: the latents have one scale, and no shift.")
    return {
        "in_channels": module.picture_channels,
        "out_channels": module.picture_channels,
        "down_block_types": [DOWN] * len(module.widths),
        "up_block_types": [UP] * len(module.widths),
        "block_out_channels": list(module.widths),
        "latent_channels": module.latent_channels,
        "layers_per_block": module.layers,
        "act_fn": "silu",
        "norm_eps": 1e-6,
        "norm_num_groups": module.groups,
        "temporal_compression_ratio": module.time_factor,
        "scaling_factor": module.scale,
        "invert_scale_latents": module.inverted,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }


def _example(module: AutoencoderKLCogVideoX) -> tuple:
    shape = (1, 1 + 2 * module.time_factor, module.factor, module.factor, module.picture_channels)
    return (jax.ShapeDtypeStruct(shape, np.float32),)


FAMILY = Family(
    NAME,
    AutoencoderKLCogVideoX,
    _build,
    _describe,
    _example,
    {"diffusers": _rows},
    published={"CogVideoX 2b": {}, "CogVideoX 5b": {"scaling_factor": 0.7}},
)
FAMILIES = {FAMILY.name: FAMILY}
