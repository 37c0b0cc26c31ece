"""Flux's ControlNets by diffusers' names: the parameters of the transformer's first layers, a hint and residuals."""

__all__ = ["build", "describe", "example", "table"]

from collections.abc import Mapping
from typing import Any

import jax

from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, Family, Fields, Refusal
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


def build(config: Mapping[str, Any]) -> FluxControlNet:
    """Our module for a config.json of FluxControlNetModel."""
    fields = Fields(NAME, config)
    depth = fields.take("num_layers", 19, DEPTH)
    singles = fields.take("num_single_layers", 38, DEPTH)
    modes = fields.take("num_mode", None, MAYBE_SIZE) or 0
    pixels = fields.take("conditioning_embedding_channels", None, MAYBE_SIZE) or 0
    fields.only("patch_size", PATCH if pixels else 1)
    own_fields = ("num_mode", "conditioning_embedding_channels", "patch_size")
    base_config = {name: value for name, value in config.items() if name not in own_fields}
    base = flux_tables.CONFIG.build({**base_config, "num_layers": depth, "num_single_layers": max(singles, 1)})
    if pixels not in (0, base.channels):
        raise Refusal(
            f"{NAME}: conditioning_embedding_channels = {pixels} is not supported; supported: a quarter of "
            f"in_channels, {base.channels}."
        )
    return FluxControlNet(base, depth, singles, modes, pixels)


def describe(module: FluxControlNet) -> dict[str, Any]:
    """Their config.json for our module."""
    base = flux_tables.CONFIG.describe(module.base)
    del base["out_channels"]
    return {
        **base,
        "patch_size": PATCH if module.pixels else 1,
        "num_layers": module.depth,
        "num_single_layers": module.singles,
        "num_mode": module.modes or None,
        "conditioning_embedding_channels": module.pixels or None,
    }


def example(module: FluxControlNet) -> tuple:
    """Arguments of a small call."""
    return jax.eval_shape(module.example)


FAMILY = Family(NAME, FluxControlNet, build, describe, example, {"diffusers": table})
FAMILIES = {FAMILY.name: FAMILY}
