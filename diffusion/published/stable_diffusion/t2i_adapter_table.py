"""The names of T2I-Adapters of Stable Diffusion 1.x and XL in diffusers, and of full adapters in the authors' files.

The authors' files count the residual blocks of all levels in one list, "body". ComfyUI reads both kinds of names.

Reference: Mou et al. 2023, "T2I-Adapter: Learning Adapters to Dig out More Controllable Ability for Text-to-Image
Diffusion Models".
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import BLOCKS, SIZE, SIZES
from diffusion.models.interchange.field_table import Choice, Field, FieldTable
from diffusion.models.interchange.rows import CONV, Row, linear
from diffusion.published.stable_diffusion.t2i_adapter import T2IAdapter

KINDS = {"full_adapter": "full", "full_adapter_xl": "full_xl", "light_adapter": "light"}
LAYOUTS = ("diffusers", "original")


def table(module: T2IAdapter, layout: str) -> list[Row]:
    """All rows of an adapter.

    Args:
        module: the adapter.
        layout: "diffusers" or "original"; a light adapter has the names of diffusers under both layouts.
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


def _read_widths(widths: tuple[int, ...], ours: Mapping[str, Any]) -> tuple[int, ...]:
    """Our widths from those of diffusers, which state the last two widths of a light adapter, equal ones, once."""
    return (*widths, widths[-1]) if ours["kind"] == "light" else widths


def _write_widths(module: T2IAdapter) -> tuple[int, ...]:
    """The widths of diffusers, the inverse of `_read_widths`."""
    if module.kind != "light":
        return module.widths
    if module.widths[-1] != module.widths[-2]:
        raise ValueError(f"the last two widths of a light adapter must be equal; this one has {module.widths}.")
    return module.widths[:-1]


CONFIG = FieldTable(
    "T2IAdapter",
    T2IAdapter,
    (
        Choice(
            "adapter_type", "kind", {"full_adapter": "full", "full_adapter_xl": "full_xl", "light_adapter": "light"}
        ),
        Field("channels", "widths", (320, 640, 1280, 1280), SIZES, _read_widths, _write_widths),
        Field("num_res_blocks", "blocks", 2, BLOCKS),
        Field("downscale_factor", "factor", 8, SIZE),
        Field("in_channels", "channels", 3, SIZE),
    ),
)


def example(module: T2IAdapter) -> tuple:
    """The arguments of a call that creates the parameters."""
    side = module.factor * 2 ** len(module.widths)
    return (jax.ShapeDtypeStruct((1, side, side, module.channels), jnp.float32),)


FAMILY = CONFIG.family(
    example,
    {layout: (lambda module, layout=layout: table(module, layout)) for layout in LAYOUTS},
    published={
        "Stable Diffusion 1.x": {"adapter_type": "full_adapter"},
        "Stable Diffusion 1.x, of grey pictures": {"adapter_type": "full_adapter", "in_channels": 1},
        "Stable Diffusion XL": {"adapter_type": "full_adapter_xl", "downscale_factor": 16},
    },
)
FAMILIES = {FAMILY.name: FAMILY}
