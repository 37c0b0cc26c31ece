"""ControlNets of PixArt by the names of PixArtControlNetAdapterModel, of diffusers' research projects.

Its config names only the number of layers, for layers of PixArt's width. For another width, ours also has the fields of
the layers, by the names of their arguments.
"""

from typing import Any

from diffusion.models.interchange.family import DEPTH, SIZE, Family, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, width_of_heads
from diffusion.models.interchange.rows import Row, linear, stacked, within
from diffusion.published.pixart import table as pixart_tables
from diffusion.published.pixart.control_net import PixArtControlNet

NAME = "PixArtControlNetAdapterModel"


def table(module: PixArtControlNet) -> list[Row]:
    """All rows of a ControlNet."""
    rows = linear("controlnet_blocks.0.before_proj", "before")
    for k in range(module.depth):
        block = f"controlnet_blocks.{k}"
        rows += within(stacked(pixart_tables.LAYER, k), f"{block}.transformer_block.", "blocks/")
        rows += linear(f"{block}.after_proj", f"residual_{k}")
    return rows


CONFIG = FieldTable(
    NAME,
    PixArtControlNet,
    (
        Field("num_layers", "depth", 13, DEPTH),
        *width_of_heads(16, 72, SIZE),
        Follows("cross_attention_dim", lambda module: module.width),
    ),
)
PIXART = {"num_attention_heads": 16, "attention_head_dim": 72, "cross_attention_dim": 1152}


def describe(module: PixArtControlNet) -> dict[str, Any]:
    """Their config.json for our module; for PixArt's width, only the number of layers."""
    config = CONFIG.describe(module)
    return config if PIXART.items() - config.items() else {"num_layers": module.depth}


def example(module: PixArtControlNet) -> tuple:
    """Arguments of a small call."""
    tokens = array(1, 1, module.width)
    return tokens, tokens, array(1, 6, module.width), tokens, None


FAMILY = Family(
    NAME, PixArtControlNet, CONFIG.build, describe, example, {"diffusers": table}, published={"PixArt-alpha's": {}}
)
FAMILIES = {FAMILY.name: FAMILY}
