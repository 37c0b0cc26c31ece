"""The tables of ControlNets for Stable Diffusion 1.x, 2.x and XL, and of unions for XL.

The layouts are those of diffusers and of the authors' single files (control_v11p_sd15_canny), which ComfyUI reads.
For unions, only diffusers' names are known; they are used for both layouts.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange import clip_tables
from diffusion.models.interchange.family import BLOCKS, SIZE, Fields, by_layout
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group, Inline
from diffusion.models.interchange.rows import CONV, Row, layers, linear, two_linear
from diffusion.published.stable_diffusion import table as conditional_unet_tables
from diffusion.published.stable_diffusion.control_net import ControlNet
from diffusion.published.stable_diffusion.network import residual_shapes

LAYOUTS = conditional_unet_tables.LAYOUTS
UP = ("conv_out/", "norm_out/", "up_")  # the parts of a U-Net that a ControlNet lacks


def table(module: ControlNet, layout: str) -> list[Row]:
    """All rows of a ControlNet.

    Args:
        module: the ControlNet.
        layout: the layout of the names, "diffusers" or "original".
    """
    layout = "diffusers" if module.modes else layout
    unet = conditional_unet_tables.table(module.unet, layout)
    rows = [row for row in unet if not row.ours.startswith(UP)]
    halves = len(module.hint_widths) - 1
    ours = ["hint_in", *(f"hint_{i}_{part}" for i in range(halves) for part in ("same", "half")), "hint_out"]
    skips = len(residual_shapes(module.unet, 1, 1)) - 1
    if layout == "original":  # its numbers count activations as layers too
        hints = [f"input_hint_block.{2 * i}" for i in range(len(ours))]
        residuals = [f"zero_convs.{i}.0" for i in range(skips)] + ["middle_block_out.0"]
    else:
        inner = [f"controlnet_cond_embedding.blocks.{i}" for i in range(2 * halves)]
        hints = ["controlnet_cond_embedding.conv_in", *inner, "controlnet_cond_embedding.conv_out"]
        residuals = [f"controlnet_down_blocks.{i}" for i in range(skips)] + ["controlnet_mid_block"]
    ours += [f"residual_{i}" for i in range(skips)] + ["residual_middle"]
    rows += [row for names in zip((*hints, *residuals), ours, strict=True) for row in linear(*names, CONV)]
    return rows + _kinds(module) if module.modes else rows


def _kinds(module: ControlNet) -> list[Row]:
    """The rows of a union's further layers; "transformer_layes" is spelled so in the files."""
    rows = [Row("task_embedding", "kind_embedding/embedding"), *linear("spatial_ch_projs", "kind_added")]
    rows += two_linear("control_add_embedding", "kind_")
    layer = clip_tables.original_layer(module.unet.widths[0])
    rows += layers(layer, module.kind_depth, "transformer_layes.", "kind_tokens/layers/")
    return rows


def _no_strength(module: ControlNet) -> dict[str, Any]:
    if module.unet.strength_width:
        raise ValueError(
            "this class does not receive the strength of guidance, but this network has strength_width = "
            f"{module.unet.strength_width}."
        )
    return {}


def _up(fields: Fields, _: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of the U-Net's upward blocks, which a ControlNet does not have and its config does not state."""
    return conditional_unet_tables.mirrored(fields.take("down_block_types", conditional_unet_tables.DOWN))


def _rows(hint_widths: tuple[int, ...]) -> tuple:
    """The fields of both classes.

    Args:
        hint_widths: default of conditioning_embedding_out_channels.
    """
    return (
        Follows("controlnet_conditioning_channel_order", "rgb", silent=True),
        Follows("global_pool_conditions", False, silent=True),
        Group({}, lambda values, ours: {}, _no_strength),
        Inline("unet", conditional_unet_tables.CONFIG, {"up_block_types": _up}, ("out_channels", "time_cond_proj_dim")),
        Field("conditioning_channels", "hint_channels", 3),
        Field("conditioning_embedding_out_channels", "hint_widths", hint_widths),
    )


def _width(theirs: str) -> Group:
    """A field whose value must be the width of the first level."""

    def read(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
        width = ours["unet"].widths[0]
        if values[theirs] != width:
            raise ValueError(f"{theirs} = {values[theirs]} is not the width of the first level, {width}.")
        return {}

    return Group({theirs: (320, SIZE)}, read, lambda module: {theirs: module.unet.widths[0]})


def _read_heads(heads: int, ours: Mapping[str, Any]) -> int:
    """The number of heads of a union's transformer, which must divide its width."""
    width = ours["unet"].widths[0]
    if width % heads:
        raise ValueError(f"num_trans_head = {heads} does not divide num_trans_channel = {width}.")
    return heads


def _write_modes(module: ControlNet) -> int:
    if not module.modes:
        raise ValueError("this class has several kinds of control, but this network has modes = 0.")
    return module.modes


CONFIG = FieldTable("ControlNetModel", ControlNet, _rows((16, 32, 96, 256)), required={"modes": 0})
UNION_CONFIG = FieldTable(
    "ControlNetUnionModel",
    ControlNet,
    (
        Follows("addition_embed_type", "text_time", default=None, silent=True),
        *_rows((48, 96, 192, 384)),
        _width("num_trans_channel"),
        _width("num_proj_channel"),
        Field("num_trans_head", "kind_heads", 8, SIZE, _read_heads),
        Field("num_control_type", "modes", 6, SIZE, write=_write_modes),
        Field("num_trans_layer", "kind_depth", 1, BLOCKS),
    ),
)


def example(module: ControlNet) -> tuple:
    """The arguments of a small example call."""
    x, t, condition = conditional_unet_tables.example(module.unet)
    side = x.shape[1] * 2 ** (len(module.hint_widths) - 1)
    hint = jax.ShapeDtypeStruct((1, side, side, module.hint_channels), jnp.float32)
    return x, t, condition, hint, *[jax.ShapeDtypeStruct((1,), jnp.int32)] * (module.modes > 0)


TABLES = by_layout(table, LAYOUTS)
ONE = CONFIG.family(
    example,
    TABLES,
    published={
        "ControlNet of Stable Diffusion 1.x": conditional_unet_tables.SD_1,
        "ControlNet of Stable Diffusion 2.x": conditional_unet_tables.SD_2,
        "ControlNet of Stable Diffusion XL": conditional_unet_tables.SD_XL,
    },
    prefixes=("control_model.", ""),
)
UNION = UNION_CONFIG.family(
    example,
    TABLES,
    published={
        "ControlNet union of Stable Diffusion XL": conditional_unet_tables.SD_XL,
        "ControlNet union of Stable Diffusion XL, ProMax": {**conditional_unet_tables.SD_XL, "num_control_type": 8},
    },
)
FAMILIES = {family.name: family for family in (ONE, UNION)}
