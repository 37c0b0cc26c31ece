"""ControlNets of PixArt by the names of PixArtControlNetAdapterModel, of diffusers' research projects.

Its config names the number of layers alone, of PixArt's own width. Ours of another width has the fields of its layers
beside it, by the names of their arguments.
"""

__all__ = ["build", "describe", "example", "table"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import DEPTH, SIZE, Family, Fields
from diffusion.models.interchange.rows import Row, linear, stacked, within
from diffusion.published.pixart import table as pixart_tables
from diffusion.published.pixart.control_net import PixArtControlNet

NAME = "PixArtControlNetAdapterModel"
HEADS, HEAD = 16, 72  # of PixArt


def table(module: PixArtControlNet) -> list[Row]:
    """All rows of a ControlNet."""
    rows = linear("controlnet_blocks.0.before_proj", "before")
    for k in range(module.depth):
        block = f"controlnet_blocks.{k}"
        rows += within(stacked(pixart_tables.LAYER, k), f"{block}.transformer_block.", "blocks/")
        rows += linear(f"{block}.after_proj", f"residual_{k}")
    return rows


def build(config: Mapping[str, Any]) -> PixArtControlNet:
    """Our module for a config.json of PixArtControlNetAdapterModel."""
    fields = Fields(NAME, config)
    heads = fields.take("num_attention_heads", HEADS, SIZE)
    module = PixArtControlNet(
        depth=fields.take("num_layers", 13, DEPTH), width=heads * fields.take("attention_head_dim", HEAD), heads=heads
    )
    fields.only("cross_attention_dim", module.width)
    fields.end()
    return module


def describe(module: PixArtControlNet) -> dict[str, Any]:
    """Their config.json for our module."""
    layer = {
        "num_attention_heads": module.heads,
        "attention_head_dim": module.width // module.heads,
        "cross_attention_dim": module.width,
    }
    published = module.heads == HEADS and module.width == HEADS * HEAD
    return {"num_layers": module.depth, **({} if published else layer)}


def example(module: PixArtControlNet) -> tuple:
    """Arguments of a small call."""
    struct = lambda *shape: jax.ShapeDtypeStruct((1, *shape, module.width), jnp.float32)
    return struct(1), struct(1), struct(6), struct(1), None


FAMILY = Family(
    NAME, PixArtControlNet, build, describe, example, {"diffusers": table}, published={"PixArt-alpha's": {}}
)
FAMILIES = {FAMILY.name: FAMILY}
