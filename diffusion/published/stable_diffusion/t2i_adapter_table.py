"""T2I-Adapters of Stable Diffusion 1.x and XL, by the names of diffusers and, of the full ones, of the authors' files.

The authors count the residual blocks of all levels in one list, "body"; ComfyUI reads both.
"""

__all__ = ["build", "describe", "example", "table"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import BLOCKS, SIZE, SIZES, Family, Fields, Refusal
from diffusion.models.interchange.rows import CONV, Row, linear
from diffusion.published.stable_diffusion.t2i_adapter import T2IAdapter

KINDS = {"full": "full_adapter", "full_xl": "full_adapter_xl", "light": "light_adapter"}
LAYOUTS = ("diffusers", "original")


def table(module: T2IAdapter, layout: str) -> list[Row]:
    """All rows of an adapter.

    Args:
        module: ours.
        layout: "diffusers" or "original"; of the light adapter only diffusers' names are known, for both.
    """
    light = module.kind == "light"
    ours = light or layout == "diffusers"
    prefix = "adapter." if ours else ""
    rows = [] if light else linear(f"{prefix}conv_in", "conv_in", CONV)
    before = module.widths[0]
    for level, width in enumerate(module.widths):
        body = f"{prefix}body.{level if ours else level * module.blocks}"
        if light or width != before:
            rows += linear(f"{body}.in_conv", f"level_{level}_in", CONV)
        before = width
        for block in range(module.blocks):
            name = f"{body}.resnets.{block}" if ours else f"body.{level * module.blocks + block}"
            for theirs, part in (("block1", "first"), ("block2", "second")):
                rows += linear(f"{name}.{theirs}", f"level_{level}_block_{block}_{part}", CONV)
        if light:
            rows += linear(f"{body}.out_conv", f"level_{level}_out", CONV)
    return rows


def build(config: Mapping[str, Any]) -> T2IAdapter:
    """Our module for a config.json of T2IAdapter."""
    fields = Fields("T2IAdapter", config)
    kinds = {theirs: ours for ours, theirs in KINDS.items()}
    kind = kinds[fields.only("adapter_type", *kinds)]
    widths = fields.take("channels", (320, 640, 1280, 1280), SIZES)
    # diffusers' light one has a last feature as wide as the one before it.
    widths = (*widths, widths[-1]) if kind == "light" else widths
    module = T2IAdapter(
        widths,
        fields.take("num_res_blocks", 2, BLOCKS),
        fields.take("downscale_factor", 8, SIZE),
        fields.take("in_channels", 3, SIZE),
        kind,
    )
    fields.end()
    return module


def describe(module: T2IAdapter) -> dict[str, Any]:
    """Their config.json for our module."""
    widths = module.widths[:-1] if module.kind == "light" else module.widths
    if module.kind == "light" and module.widths[-1] != widths[-1]:
        raise Refusal(f"T2IAdapter: the last two widths of a light adapter are equal; ours has {module.widths}.")
    return {
        "adapter_type": KINDS[module.kind],
        "channels": list(widths),
        "num_res_blocks": module.blocks,
        "downscale_factor": module.factor,
        "in_channels": module.channels,
    }


def example(module: T2IAdapter) -> tuple:
    """Arguments of a call."""
    side = module.factor * 2 ** len(module.widths)
    return (jax.ShapeDtypeStruct((1, side, side, module.channels), jnp.float32),)


FAMILY = Family(
    name="T2IAdapter",
    module=T2IAdapter,
    build=build,
    describe=describe,
    example=example,
    tables={layout: (lambda module, layout=layout: table(module, layout)) for layout in LAYOUTS},
    published={
        "Stable Diffusion 1.x": {"adapter_type": "full_adapter"},
        "Stable Diffusion 1.x, of grey pictures": {"adapter_type": "full_adapter", "in_channels": 1},
        "Stable Diffusion XL": {"adapter_type": "full_adapter_xl", "downscale_factor": 16},
    },
)
FAMILIES = {FAMILY.name: FAMILY}
