"""Chroma's transformer: Flux's names without the modulation's, and the network that makes its vectors."""

__all__ = ["build", "describe", "example", "table"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import BLOCKS, Family, Fields, Refusal
from diffusion.models.interchange.rows import Row, linear, within
from diffusion.published.flux import table as flux_tables
from diffusion.published.flux.network import PATCH, Flux

NAME = "ChromaTransformer2DModel"
LAYER = {"diffusers": ("linear_1", "linear_2", "weight"), "original": ("in_layer", "out_layer", "scale")}


def table(module: Flux, layout: str) -> list[Row]:
    """The rows of a network, by the names of a layout, "diffusers" or "original"."""
    gone = ("conditioning/", "final_modulation/")
    rows = [
        row
        for row in flux_tables.table(module, layout)
        if not row.ours.startswith(gone) and "/modulation/" not in row.ours
    ]
    first, second, scale = LAYER[layout]
    approximator = linear("in_proj", "enter") + linear("out_proj", "leave")
    for i in range(module.approximator[2]):
        approximator += linear(f"layers.{i}.{first}", f"layer_{i}/hidden") + linear(
            f"layers.{i}.{second}", f"layer_{i}/out"
        )
        approximator.append(Row(f"norms.{i}.{scale}", f"norm_{i}/scale"))
    return rows + within(approximator, "distilled_guidance_layer.", "approximator/")


def build(config: Mapping[str, Any]) -> Flux:
    """Our module for a config.json of ChromaTransformer2DModel."""
    fields = Fields(NAME, config)
    sizes = flux_tables.sizes(fields)
    approximator = (
        fields.take("approximator_num_channels", 64),
        fields.take("approximator_hidden_dim", 5120),
        fields.take("approximator_layers", 5, BLOCKS),
    )
    fields.end()
    return Flux(**sizes, pooled_width=0, approximator=approximator)


def describe(module: Flux) -> dict[str, Any]:
    """The config.json of one of our modules.

    Raises:
        Refusal: for a Flux whose layers make their own vectors.
    """
    if not module.approximator:
        raise Refusal(f"{NAME}: its vectors are made by an approximator, and this network has none.")
    features, hidden, layers = module.approximator
    more = {"approximator_num_channels": features, "approximator_hidden_dim": hidden, "approximator_layers": layers}
    return flux_tables.described(module) | more


def example(module: Flux) -> tuple:
    """Arguments of a small call."""
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    condition = {"text": array(1, 1, module.text_width), "text_mask": jax.ShapeDtypeStruct((1, 1), jnp.bool_)}
    return array(1, PATCH, PATCH, module.channels), array(1), condition


FAMILY = Family(
    NAME,
    Flux,
    build,
    describe,
    example,
    {layout: lambda module, layout=layout: table(module, layout) for layout in LAYER},
    published={"Chroma1": {}},
    prefixes=("model.diffusion_model.", ""),
    kohya="original",
)
FAMILIES = {FAMILY.name: FAMILY}
