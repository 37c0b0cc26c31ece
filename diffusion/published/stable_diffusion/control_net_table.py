"""ControlNets of Stable Diffusion 1.x, 2.x and XL, and unions for XL: the parameters of a U-Net and of a hint.

Their names are diffusers', or come from the authors' single files (control_v11p_sd15_canny), which ComfyUI reads; of
unions diffusers' alone are known, for both.
"""

__all__ = ["build", "build_union", "describe", "describe_union", "example", "table"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange import clip_tables
from diffusion.models.interchange.family import BLOCKS, SIZE, Family, Fields, Refusal
from diffusion.models.interchange.rows import CONV, Row, linear, stacked, within
from diffusion.published.stable_diffusion import table as conditional_unet_tables
from diffusion.published.stable_diffusion.control_net import ControlNet
from diffusion.published.stable_diffusion.network import residual_shapes

LAYOUTS = conditional_unet_tables.LAYOUTS
UP = ("conv_out/", "norm_out/", "up_")  # the parts of a U-Net that a ControlNet lacks
OWN = {  # their default of each field that a U-Net does not have
    "conditioning_channels": 3,
    "conditioning_embedding_out_channels": (16, 32, 96, 256),
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
}
UNION_HINTS = (48, 96, 192, 384)  # their default widths of a union's hint
OF_UNIONS = ("num_control_type", "num_trans_channel", "num_trans_head", "num_trans_layer", "num_proj_channel")


def table(module: ControlNet, layout: str) -> list[Row]:
    """All rows of a ControlNet.

    Args:
        module: ours.
        layout: "diffusers" or "original".
    """
    layout = "diffusers" if module.modes else layout
    unet = conditional_unet_tables.table(module.unet, layout)
    rows = [row for row in unet if not row.ours.startswith(UP)]
    halves = len(module.hint_widths) - 1
    ours = ["hint_in", *(f"hint_{i}_{part}" for i in range(halves) for part in ("same", "half")), "hint_out"]
    skips = len(residual_shapes(module.unet, 1, 1)) - 1
    if layout == "original":  # activations are counted too
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
    """The rows of what a union has more; "transformer_layes" is their name."""
    rows = [Row("task_embedding", "kind_embedding/embedding"), *linear("spatial_ch_projs", "kind_added")]
    for theirs, ours in (("linear_1", "hidden"), ("linear_2", "out")):
        rows += linear(f"control_add_embedding.{theirs}", f"kind_{ours}")
    layer = clip_tables.original_layer(module.unet.widths[0])
    for i in range(module.kind_depth):
        rows += within(stacked(layer, i), f"transformer_layes.{i}.", "kind_tokens/layers/")
    return rows


def build(config: Mapping[str, Any]) -> ControlNet:
    """Our module for a config.json of ControlNetModel."""
    return _built("ControlNetModel", config)


def _built(name: str, config: Mapping[str, Any]) -> ControlNet:
    """Our module for the fields that both classes have; the name is the class's, for messages."""
    fields = Fields(name, config)
    hint_fields = {field: fields.take(field, default) for field, default in OWN.items()}
    for field in ("controlnet_conditioning_channel_order", "global_pool_conditions"):
        if hint_fields[field] != OWN[field]:
            raise Refusal(f"{name}: {field} = {hint_fields[field]!r} is not supported; supported: {OWN[field]!r}.")
    unet = {field: value for field, value in config.items() if field not in OWN}
    down = fields.take("down_block_types", (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"))
    unet["up_block_types"] = [name.replace("Down", "Up") for name in reversed(down)]
    return ControlNet(
        conditional_unet_tables.build(unet),
        tuple(hint_fields["conditioning_embedding_out_channels"]),
        hint_fields["conditioning_channels"],
    )


def build_union(config: Mapping[str, Any]) -> ControlNet:
    """Our module for a config.json of ControlNetUnionModel."""
    fields = Fields("ControlNetUnionModel", config)
    if (added := config.get("addition_embed_type")) != "text_time":
        raise Refusal(
            f"ControlNetUnionModel: addition_embed_type = {added!r} is not supported; supported: 'text_time'."
        )
    hints = {"conditioning_embedding_out_channels": UNION_HINTS}
    net_config = {field: value for field, value in config.items() if field not in OF_UNIONS}
    module = _built("ControlNetUnionModel", hints | net_config)
    width = module.unet.widths[0]
    for field in ("num_trans_channel", "num_proj_channel"):
        if (value := fields.take(field, 320, SIZE)) != width:
            raise Refusal(f"ControlNetUnionModel: {field} = {value} is not the width of the first level, {width}.")
    heads = fields.take("num_trans_head", 8, SIZE)
    if width % heads:
        raise Refusal(f"ControlNetUnionModel: num_trans_head = {heads} does not divide num_trans_channel = {width}.")
    return module.clone(
        modes=fields.take("num_control_type", 6, SIZE),
        kind_depth=fields.take("num_trans_layer", 1, BLOCKS),
        kind_heads=heads,
    )


def describe(module: ControlNet) -> dict[str, Any]:
    """Their config.json for our module."""
    if module.modes:
        raise Refusal(f"ControlNetModel has one kind of control; ours has modes = {module.modes}.")
    unet = conditional_unet_tables.describe(module.unet)
    if unet.pop("time_cond_proj_dim"):
        raise Refusal(
            "ControlNetModel does not receive the strength of guidance; ours has strength_width = "
            f"{module.unet.strength_width}."
        )
    del unet["up_block_types"], unet["out_channels"]
    return {
        **unet,
        "conditioning_channels": module.hint_channels,
        "conditioning_embedding_out_channels": list(module.hint_widths),
    }


def describe_union(module: ControlNet) -> dict[str, Any]:
    """Their config.json for our module."""
    if not module.modes:
        raise Refusal("ControlNetUnionModel has several kinds of control; ours has modes = 0.")
    width = module.unet.widths[0]
    numbers = (module.modes, width, module.kind_heads, module.kind_depth, width)
    return describe(module.clone(modes=0)) | dict(zip(OF_UNIONS, numbers))


def example(module: ControlNet) -> tuple:
    """Arguments of a call."""
    x, t, condition = conditional_unet_tables.example(module.unet)
    side = x.shape[1] * 2 ** (len(module.hint_widths) - 1)
    hint = jax.ShapeDtypeStruct((1, side, side, module.hint_channels), jnp.float32)
    return x, t, condition, hint, *[jax.ShapeDtypeStruct((1,), jnp.int32)] * (module.modes > 0)


TABLES = {layout: (lambda module, layout=layout: table(module, layout)) for layout in LAYOUTS}
ONE = Family(
    name="ControlNetModel",
    module=ControlNet,
    build=build,
    describe=describe,
    example=example,
    tables=TABLES,
    published={
        "ControlNet of Stable Diffusion 1.x": conditional_unet_tables.SD_1,
        "ControlNet of Stable Diffusion 2.x": conditional_unet_tables.SD_2,
        "ControlNet of Stable Diffusion XL": conditional_unet_tables.SD_XL,
    },
    prefixes=("control_model.", ""),
)
UNION = Family(
    name="ControlNetUnionModel",
    module=ControlNet,
    build=build_union,
    describe=describe_union,
    example=example,
    tables=TABLES,
    published={
        "ControlNet union of Stable Diffusion XL": conditional_unet_tables.SD_XL,
        "ControlNet union of Stable Diffusion XL, ProMax": {**conditional_unet_tables.SD_XL, "num_control_type": 8},
    },
)
FAMILIES = {family.name: family for family in (ONE, UNION)}
