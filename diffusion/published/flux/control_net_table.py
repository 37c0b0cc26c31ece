"""Flux's ControlNets by diffusers' names: the parameters of the transformer's first layers, a hint and residuals."""

from collections.abc import Mapping
from typing import Any

import jax

from diffusion.models.interchange.family import DEPTH
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Inline, zero_or_null
from diffusion.models.interchange.rows import CONV, Row, linear
from diffusion.published.flux import table as flux_tables
from diffusion.published.flux.control_net import FACTOR, FluxControlNet
from diffusion.published.flux.network import PATCH

NAME = "FluxControlNetModel"
END = "final"  # the part of a transformer that a ControlNet lacks


def table(module: FluxControlNet) -> list[Row]:
    """All rows of a ControlNet."""
    base = module.base.clone(depth=module.depth, singles=max(module.singles, 1))
    lacks = (END, "single_blocks/") if module.singles == 0 else (END,)
    rows = [row for row in flux_tables.table(base, "diffusers") if not row.ours.startswith(lacks)]
    rows += linear("controlnet_x_embedder", "hint_embedding", flux_tables.PACKED_IN)
    rows += [Row("controlnet_mode_embedder.weight", "mode_embedding/embedding")] * (module.modes > 0)
    if module.pixels:
        rows += linear("input_hint_block.conv_in", "hint_in", CONV) + linear(
            "input_hint_block.conv_out", "hint_out", CONV
        )
        for i in range(FACTOR.bit_length() - 1):
            rows += linear(f"input_hint_block.blocks.{2 * i}", f"hint_{i}_same", CONV)
            rows += linear(f"input_hint_block.blocks.{2 * i + 1}", f"hint_{i}_half", CONV)
    for k in range(module.depth):
        rows += linear(f"controlnet_blocks.{k}", f"residual_{k}")
    for k in range(module.singles):
        rows += linear(f"controlnet_single_blocks.{k}", f"single_residual_{k}")
    return rows


def _read_pixels(channels: int | None, ours: Mapping[str, Any]) -> int:
    """The channels that are made of a picture, as many as the latents'."""
    if channels and channels != ours["base"].channels:
        raise ValueError(
            f"conditioning_embedding_channels = {channels} is not supported; supported: a quarter of in_channels, "
            f"{ours['base'].channels}."
        )
    return channels or 0


CONFIG = FieldTable(
    NAME,
    FluxControlNet,
    (
        Field("num_layers", "depth", 19, DEPTH),
        Field("num_single_layers", "singles", 38, DEPTH),
        zero_or_null("num_mode", "modes"),
        Inline(
            "base",
            flux_tables.CONFIG,
            {
                "patch_size": lambda fields, ours: 1,
                "num_layers": lambda fields, ours: ours["depth"],
                "num_single_layers": lambda fields, ours: max(ours["singles"], 1),
            },
            unwritten=("out_channels",),
        ),
        zero_or_null("conditioning_embedding_channels", "pixels")._replace(read=_read_pixels),
        Follows("patch_size", lambda module: PATCH if module.pixels else 1),
    ),
)


def example(module: FluxControlNet) -> tuple:
    """Arguments of a small call."""
    return jax.eval_shape(module.example)


FAMILY = CONFIG.family(example, {"diffusers": table})
FAMILIES = {FAMILY.name: FAMILY}
