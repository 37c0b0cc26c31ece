"""ControlNets of Stable Diffusion 1.x, 2.x and XL: the parameters of a U-Net and of a hint.

Their names are diffusers', or those of the authors' single files (control_v11p_sd15_canny), which ComfyUI reads.
"""

__all__ = ["build", "describe", "example", "table"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.conditional_unet import residual_shapes
from diffusion.models.control_net import ControlNet
from diffusion.models.interchange import conditional_unet_tables
from diffusion.models.interchange.family import Family, Fields, Refusal
from diffusion.models.interchange.rows import CONV, Row, linear

LAYOUTS = conditional_unet_tables.LAYOUTS
UP = ("conv_out/", "norm_out/", "up_")  # the parts of a U-Net that a ControlNet lacks
OWN = {  # their default of each field that a U-Net does not have
    "conditioning_channels": 3,
    "conditioning_embedding_out_channels": (16, 32, 96, 256),
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
}


def table(module: ControlNet, layout: str) -> list[Row]:
    """All rows of a ControlNet.

    Args:
        module: ours.
        layout: "diffusers" or "original".
    """
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
    return rows + [row for names in zip((*hints, *residuals), ours, strict=True) for row in linear(*names, CONV)]


def build(config: Mapping[str, Any]) -> ControlNet:
    """Our module for a config.json of ControlNetModel."""
    fields = Fields("ControlNetModel", config)
    own = {field: fields.take(field, default) for field, default in OWN.items()}
    for field in ("controlnet_conditioning_channel_order", "global_pool_conditions"):
        if own[field] != OWN[field]:
            raise Refusal(f"ControlNetModel: {field} = {own[field]!r} is not supported; supported: {OWN[field]!r}.")
    unet = {field: value for field, value in config.items() if field not in OWN}
    down = fields.take("down_block_types", (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"))
    unet["up_block_types"] = [name.replace("Down", "Up") for name in reversed(down)]
    return ControlNet(
        conditional_unet_tables.build(unet),
        tuple(own["conditioning_embedding_out_channels"]),
        own["conditioning_channels"],
    )


def describe(module: ControlNet) -> dict[str, Any]:
    """Their config.json for our module."""
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


def example(module: ControlNet) -> tuple:
    """Arguments of a call."""
    x, t, condition = conditional_unet_tables.example(module.unet)
    side = x.shape[1] * 2 ** (len(module.hint_widths) - 1)
    return x, t, condition, jax.ShapeDtypeStruct((1, side, side, module.hint_channels), jnp.float32)


FAMILY = Family(
    name="ControlNetModel",
    module=ControlNet,
    build=build,
    describe=describe,
    example=example,
    tables={
        layout: (lambda module, layout=layout: table(module, layout)) for layout in conditional_unet_tables.LAYOUTS
    },
    published={
        "ControlNet of Stable Diffusion 1.x": conditional_unet_tables.SD_1,
        "ControlNet of Stable Diffusion 2.x": conditional_unet_tables.SD_2,
        "ControlNet of Stable Diffusion XL": conditional_unet_tables.SD_XL,
    },
    prefixes=("control_model.", ""),
)
