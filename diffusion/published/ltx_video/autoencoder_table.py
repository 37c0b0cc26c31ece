"""LTX-Video's autoencoder by diffusers' names, AutoencoderKLLTXVideo, in its published versions.

The mean and deviation of the latents' channels are in the files, not in the config.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion.io import schema
from diffusion.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from diffusion.models.interchange.autoencoder_tables import per_channel
from diffusion.models.interchange.family import SCALE, SIZE, SIZES, Computed, Refusal
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import Row, linear, with_ones
from diffusion.models.interchange.tensor_files import Tensors
from diffusion.published.wan.autoencoder_table import video, video_conv

NAME = "AutoencoderKLLTXVideo"
FIRST, LATER = "LTXVideoDownBlock3D", "LTXVideo095DownBlock3D"
CHANNELS = with_ones(after=2)
FLAGS = schema.several(schema.FLAG, 1, 17)
COUNTS = schema.several(schema.integer(0, 64), 2, 17)
NAMES = schema.several(schema.text(), 1, 16)
VERSIONS = {
    "LTX-Video 0.9.0": {},
    "LTX-Video 0.9.1": {
        "decoder_block_out_channels": (256, 512, 1024),
        "decoder_layers_per_block": (5, 6, 7, 8),
        "decoder_spatio_temporal_scaling": (True, True, True),
        "decoder_inject_noise": (True, True, True, False),
        "upsample_residual": (True, True, True),
        "upsample_factor": (2, 2, 2),
        "timestep_conditioning": True,
    },
    "LTX-Video 0.9.5": {
        "block_out_channels": (128, 256, 512, 1024, 2048),
        "down_block_types": (LATER,) * 4,
        "layers_per_block": (4, 6, 6, 2, 2),
        "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        "spatio_temporal_scaling": (True, True, True, True),
        "decoder_block_out_channels": (256, 512, 1024),
        "decoder_layers_per_block": (5, 5, 5, 5),
        "decoder_spatio_temporal_scaling": (True, True, True),
        "decoder_inject_noise": (False, False, False, False),
        "upsample_residual": (True, True, True),
        "upsample_factor": (2, 2, 2),
        "timestep_conditioning": True,
    },
}


def _time(theirs: str, ours: str) -> list[Row]:
    parts = zip(("hidden", "out"), (1, 2))
    return [row for ours_, i in parts for row in linear(f"{theirs}.timestep_embedder.linear_{i}", f"{ours}/{ours_}")]


def _block(theirs: str, ours: str, changes: bool, noise: bool = False, timed: bool = False) -> list[Row]:
    rows = [row for i in (1, 2) for row in video_conv(f"{theirs}.conv{i}", f"{ours}/conv_{i}")]
    if noise:
        rows += [Row(f"{theirs}.per_channel_scale{i}", f"{ours}/noise_{i}", CHANNELS) for i in (1, 2)]
    if timed:
        rows.append(Row(f"{theirs}.scale_shift_table", f"{ours}/table"))
    if changes:
        rows += [Row(f"{theirs}.norm3.weight", f"{ours}/norm_shortcut/scale")]
        rows += [Row(f"{theirs}.norm3.bias", f"{ours}/norm_shortcut/bias")]
        rows += video_conv(f"{theirs}.conv_shortcut", f"{ours}/shortcut")
    return rows


def encoder_rows(module: AutoencoderKLLTX) -> list[Row]:
    """The rows of the encoder."""
    rows = video_conv("encoder.conv_in", "encoder/conv_in") + video_conv("encoder.conv_out", "encoder/conv_out")
    for i, how in enumerate(module.halve):
        theirs = f"encoder.down_blocks.{i}"
        for j in range(module.layers[i]):
            rows += _block(f"{theirs}.resnets.{j}", f"encoder/level_{i}_block_{j}", False)
        if how:
            inner = "" if how == "conv" else "/conv"
            rows += video_conv(f"{theirs}.downsamplers.0{inner.replace('/', '.')}", f"encoder/halve_{i}{inner}")
        if how in ("", "conv") and module.widths[i] != module.widths[i + 1]:
            rows += _block(f"{theirs}.conv_out", f"encoder/widen_{i}", True)
    for j in range(module.layers[-1]):
        rows += _block(f"encoder.mid_block.resnets.{j}", f"encoder/middle_block_{j}", False)
    return rows


def decoder_rows(module: AutoencoderKLLTX) -> list[Row]:
    """The rows of the decoder."""
    rows = video_conv("decoder.conv_in", "decoder/conv_in") + video_conv("decoder.conv_out", "decoder/conv_out")
    if module.timed:
        rows += [Row("decoder.timestep_scale_multiplier", "decoder/clock")]
        rows += [Row("decoder.scale_shift_table", "decoder/final_table")]
        rows += _time("decoder.time_embedder", "decoder/final_time")
    entering, last = module.decoder_widths[-1], len(module.decoder_widths) - 1
    for level in (-1, *range(last, -1, -1)):
        theirs = "decoder.mid_block" if level < 0 else f"decoder.up_blocks.{last - level}"
        ours = "decoder/middle" if level < 0 else f"decoder/level_{level}"
        kind = (module.noise[level], module.timed)
        for j in range(module.decoder_layers[level]):
            rows += _block(f"{theirs}.resnets.{j}", f"{ours}_block_{j}", False, *kind)
        if module.timed:
            rows += _time(f"{theirs}.time_embedder", f"{ours}_time")
        if level < 0:
            continue
        width = module.decoder_widths[level] // module.narrowing[level]
        if module.narrowing[level] == 1 and width != entering:
            rows += _block(f"{theirs}.conv_in", f"decoder/narrow_{level}", True, module.noise[level])
        if module.double[level]:
            rows += video_conv(f"{theirs}.upsamplers.0.conv", f"decoder/double_{level}/conv")
        entering = width
    return rows


def _folds(module: AutoencoderKLLTX) -> bool:
    """Whether its levels fold pixels and frames into channels, as in later versions."""
    return any(how not in ("", "conv") for how in module.halve)


def _read_levels(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
    """Our widths, and how each level of the encoder halves."""
    widths, kinds, scaled, types = values.values()
    later = set(kinds) == {LATER}
    if not later:
        if set(kinds) != {FIRST}:
            raise ValueError(f"down_block_types must all be {FIRST}, or all {LATER}; got {kinds}.")
        widths, types = (*widths, widths[-1]), ("conv",) * len(kinds)
    if not len(widths) - 1 == len(kinds) == len(scaled) == len(types):
        raise ValueError(
            "block_out_channels, down_block_types, downsample_type and spatio_temporal_scaling must have one entry "
            "for each level, and block_out_channels one more with the later kind of blocks."
        )
    halve = tuple(how if scales else "" for how, scales in zip(types, scaled))
    if later and any(how in ("", "conv") and a != b for how, a, b in zip(halve, widths, widths[1:])):
        raise ValueError(f"{LATER} can change its channels only where downsample_type folds, not where it is 'conv'.")
    return {"widths": widths, "halve": halve}


def _write_levels(module: AutoencoderKLLTX) -> dict[str, Any]:
    later = _folds(module)
    if not later and module.widths[-1] != module.widths[-2]:
        raise ValueError("the middle of the encoder must be as wide as its last level, unless all levels fold.")
    return {
        "block_out_channels": list(module.widths if later else module.widths[:-1]),
        "down_block_types": [LATER if later else FIRST] * len(module.halve),
        "spatio_temporal_scaling": [bool(how) for how in module.halve],
        "downsample_type": [how or "conv" for how in module.halve],
    }


# diffusers counts every level as a halving of sides and frames where the config does not say otherwise
_ratio = functools.partial(Follows, default=None, optional=True, silent=lambda module: not _folds(module))
CONFIG = FieldTable(
    NAME,
    AutoencoderKLLTX,
    (
        Follows("resnet_norm_eps", 1e-6),
        Follows("encoder_causal", True),
        Follows("decoder_causal", False),
        Follows("patch_size_t", 1),
        Field("in_channels", "picture_channels", 3, SIZE),
        Follows("out_channels", lambda module: module.picture_channels),
        Group(
            {
                "block_out_channels": ((128, 256, 512, 512), SIZES),
                "down_block_types": ((FIRST,) * 4, NAMES),
                "spatio_temporal_scaling": ((True, True, True, False), FLAGS),
                "downsample_type": (("conv",) * 4, NAMES),
            },
            _read_levels,
            _write_levels,
        ),
        Field("layers_per_block", "layers", (4, 3, 3, 3, 4), COUNTS),
        Field("decoder_block_out_channels", "decoder_widths", (128, 256, 512, 512), SIZES),
        Field("decoder_layers_per_block", "decoder_layers", (4, 3, 3, 3, 4), COUNTS),
        Field("decoder_spatio_temporal_scaling", "double", (True, True, True, False), FLAGS),
        Field("upsample_factor", "narrowing", (1, 1, 1, 1), SIZES),
        Field("upsample_residual", "residual", (False,) * 4, FLAGS),
        Field("decoder_inject_noise", "noise", (False,) * 5, FLAGS),
        Field("timestep_conditioning", "timed", False),
        Field("latent_channels", "latent_channels", 128, SIZE),
        Field("patch_size", "patch", 4, SIZE),
        # When written, the whole scale is in the tensors.
        Field("scaling_factor", "scale", 1.0, SCALE, write=lambda module: 1.0),
        _ratio("spatial_compression_ratio", lambda module: module.factor),
        _ratio("temporal_compression_ratio", lambda module: module.time_factor),
    ),
    required={"reflects": False, "doubling": ()},  # LTX-2's have one of both
)


def with_statistics(module: Any, tensors: Tensors) -> Any:
    """The module, with the file's scale and mean of each channel."""
    if not {"latents_mean", "latents_std"} <= tensors.shapes.keys():
        return module
    mean, deviation = (np.asarray(tensors.read(f"latents_{name}"), np.float64) for name in ("mean", "std"))
    if mean.shape != deviation.shape or (deviation <= 0).any():
        raise Refusal("latents_mean and latents_std must have the same length, and latents_std must be above 0.")
    return module.clone(scale=tuple(map(float, module.scale / deviation)), shift=tuple(map(float, mean)))


def statistics(module: AutoencoderKLLTX) -> dict[str, Computed]:
    """The mean and deviation of the latents' channels, which are tensors of the file."""
    channels = (module.latent_channels,)
    return {
        "latents_mean": Computed(channels, lambda: per_channel(module, module.shift).astype(np.float32)),
        "latents_std": Computed(channels, lambda: (1 / per_channel(module, module.scale)).astype(np.float32)),
    }


FAMILY = CONFIG.family(
    video,
    {"diffusers": lambda module: encoder_rows(module) + decoder_rows(module)},
    computed=statistics,
    varied=with_statistics,
    published=VERSIONS,
)
FAMILIES = {FAMILY.name: FAMILY}
