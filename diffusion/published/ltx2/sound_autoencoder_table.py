"""LTX-2's autoencoder of sounds by diffusers' names, AutoencoderKLLTX2Audio."""

import numpy as np

from diffusion.models.interchange.family import BLOCKS, SIZE, SIZES, Computed, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import Row, conv
from diffusion.published.ltx2.sound_autoencoder import LEVELS, LTX2SoundAutoencoder
from diffusion.published.ltx_video.autoencoder_table import with_statistics

NAME = "AutoencoderKLLTX2Audio"


def _conv(theirs: str, ours: str) -> list[Row]:
    return conv(f"{theirs}.conv", f"{ours}/conv")


def _block(theirs: str, ours: str, widens: bool) -> list[Row]:
    rows = [row for i in (1, 2) for row in _conv(f"{theirs}.conv{i}", f"{ours}/conv_{i}")]
    return rows + (_conv(f"{theirs}.nin_shortcut", f"{ours}/shortcut") if widens else [])


def _rows(module: LTX2SoundAutoencoder) -> list[Row]:
    table = []
    widths = [module.width * multiple for multiple in module.multiples]
    for part, levels, layers, entering in (
        ("encoder", range(LEVELS), module.layers, module.width),
        ("decoder", range(LEVELS - 1, -1, -1), module.layers + 1, widths[-1]),
    ):
        for end in ("conv_in", "conv_out"):
            table += _conv(f"{part}.{end}", f"{part}/{end}")
        for j in (1, 2):
            table += _block(f"{part}.mid.block_{j}", f"{part}/middle_block_{j}", False)
        for i in levels:
            theirs = f"{part}.{'down' if part == 'encoder' else 'up'}.{i}"
            for j in range(layers):
                table += _block(f"{theirs}.block.{j}", f"{part}/level_{i}_block_{j}", widths[i] != entering)
                entering = widths[i]
            if part == "encoder" and i < LEVELS - 1:
                table += conv(f"{theirs}.downsample.conv", f"{part}/halve_{i}")
            if part == "decoder" and i:
                table += _conv(f"{theirs}.upsample.conv", f"{part}/double_{i}")
    return table


def _statistics(module: LTX2SoundAutoencoder) -> dict[str, Computed]:
    """The mean and deviation of a token's features; the file has `base_channels` of them."""
    channelwise = lambda factor: np.broadcast_to(np.asarray(factor, np.float64), module.width)
    return {
        "latents_mean": Computed((module.width,), lambda: channelwise(module.shift).astype(np.float32)),
        "latents_std": Computed((module.width,), lambda: (1 / channelwise(module.scale)).astype(np.float32)),
    }


CONFIG = FieldTable(
    NAME,
    LTX2SoundAutoencoder,
    (
        Field("base_channels", "width", 128, SIZE),
        Field("ch_mult", "multiples", (1, 2, 4), SIZES),
        Field("num_res_blocks", "layers", 2, BLOCKS),
        Field("latent_channels", "latent_channels", 8, SIZE),
        Field("in_channels", "channels", 2, SIZE),
        Follows("output_channels", lambda module: module.channels, default=2),
        Field("mel_bins", "bands", 64, SIZE),
        Follows("attn_resolutions", None),
        Follows("mid_block_add_attention", False),
        Follows("norm_type", "pixel"),
        Follows("causality_axis", "height"),
        Follows("is_causal", True),
        Follows("double_z", True),
        Follows("sample_rate", 16000),
        Follows("mel_hop_length", 160),
    ),
    unread={"resolution": 256, "dropout": 0.0},
)


def _example(module: LTX2SoundAutoencoder) -> tuple:
    return (array(1, 1, module.bands, module.channels),)


FAMILY = CONFIG.family(
    _example, {"diffusers": _rows}, computed=_statistics, varied=with_statistics, published={"LTX-2": {}}
)
FAMILIES = {FAMILY.name: FAMILY}
