"""SD 3's ControlNets by diffusers' names: the parameters of the transformer's first layers, of a hint and residuals."""

__all__ = ["build", "describe", "example", "table"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange import joint_rows
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, Family, Fields, Refusal
from diffusion.models.interchange.joint_rows import stream_rows
from diffusion.models.interchange.rows import Row, linear, patches, stacked, within
from diffusion.published.stable_diffusion_3 import table as mmdit_tables
from diffusion.published.stable_diffusion_3.control_net import MMDiTControlNet

NAME = "SD3ControlNetModel"
ENDS = ("final", "last_block/")  # the parts of a transformer that a ControlNet lacks
EMBEDDING = ("patch_embedding/", "positions_table")
WORDS = ("text_embedding/", "blocks/", "dual_blocks/")


def table(module: MMDiTControlNet) -> list[Row]:
    """All rows of a ControlNet."""
    base = module.base.clone(depth=module.depth + 1, dual=min(module.base.dual, module.depth))
    lacks = (*ENDS, *(() if module.embeds else EMBEDDING), *(() if module.text else WORDS))
    rows = [row for row in mmdit_tables.table("diffusers")(base) if not row.ours.startswith(lacks)]
    if not module.text:
        layer = stream_rows(joint_rows.DIFFUSERS[0], "image", False)
        for k in range(module.depth):
            rows += within(stacked(layer, k), f"transformer_blocks.{k}.", "blocks/")
    rows += linear("pos_embed_input.proj", "hint_embedding", patches(base.patch))
    for k in range(module.depth):
        rows += linear(f"controlnet_blocks.{k}", f"residual_{k}")
    return rows


def build(config: Mapping[str, Any]) -> MMDiTControlNet:
    """Our module for a config.json of SD3ControlNetModel."""
    fields = Fields(NAME, config)
    depth = fields.take("num_layers", 18, DEPTH)
    dual = fields.take("dual_attention_layers", (), mmdit_tables.LAYERS_VALID)
    embeds = fields.take("use_pos_embed", True)
    if embeds and fields.only("pos_embed_type", "sincos", None) is None:
        raise Refusal(f"{NAME}: pos_embed_type = None is not supported; supported: 'sincos'.")
    words = fields.take("joint_attention_dim", 4096, MAYBE_SIZE)
    extra = fields.take("extra_conditioning_channels", 0, DEPTH)
    pooled = not fields.take("force_zeros_for_pooled_projection", True)
    own_fields = ("use_pos_embed", "pos_embed_type", "extra_conditioning_channels", "force_zeros_for_pooled_projection")
    base_config = {name: value for name, value in config.items() if name not in own_fields} | {
        "_class_name": mmdit_tables.NAME,
        "num_layers": max(depth, len(dual)) + 1,
        "joint_attention_dim": words or 4096,
    }
    base = mmdit_tables.CONFIG.build(base_config)
    if words is None and base.dual:
        raise Refusal(f"{NAME}: dual_attention_layers = {dual} have no effect without joint_attention_dim.")
    return MMDiTControlNet(base, depth, base.channels + extra, words is not None, embeds, pooled)


def describe(module: MMDiTControlNet) -> dict[str, Any]:
    """Their config.json for our module."""
    return {
        **mmdit_tables.CONFIG.describe(module.base),
        "num_layers": module.depth,
        **({} if module.text else {"joint_attention_dim": None}),
        "extra_conditioning_channels": module.hint_channels - module.base.channels,
        "pos_embed_type": "sincos",
        "use_pos_embed": module.embeds,
        "force_zeros_for_pooled_projection": not module.pooled,
    }


def example(module: MMDiTControlNet) -> tuple:
    """Arguments of a small call."""
    x, t, condition = mmdit_tables.example(module.base)
    hint = jax.ShapeDtypeStruct((*x.shape[:3], module.hint_channels), jnp.float32)
    return x if module.embeds else jax.ShapeDtypeStruct((1, 1, module.base.width), jnp.float32), t, condition, hint


FAMILY = Family(NAME, MMDiTControlNet, build, describe, example, {"diffusers": table})
FAMILIES = {FAMILY.name: FAMILY}
