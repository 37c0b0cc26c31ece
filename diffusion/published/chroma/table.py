"""Chroma's transformer: Flux's names without the modulation's, and the network that makes its vectors."""

from typing import Any

from diffusion.models.interchange.family import BLOCKS, by_layout, prompted
from diffusion.models.interchange.field_table import FieldTable, Group
from diffusion.models.interchange.rows import Row, linear, mlp, within
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
        approximator += mlp(f"layers.{i}.{first}", f"layers.{i}.{second}", f"layer_{i}/")
        approximator.append(Row(f"norms.{i}.{scale}", f"norm_{i}/scale"))
    return rows + within(approximator, "distilled_guidance_layer.", "approximator/")


APPROXIMATOR = {
    "approximator_num_channels": (64, None),
    "approximator_hidden_dim": (5120, None),
    "approximator_layers": (5, BLOCKS),
}


def _approximator(module: Flux) -> dict[str, Any]:
    if not module.approximator:
        raise ValueError("this class makes its vectors by an approximator, but this network has none.")
    return dict(zip(APPROXIMATOR, module.approximator))


CONFIG = FieldTable(
    NAME,
    Flux,
    (
        *flux_tables.FIELDS,
        Group(
            APPROXIMATOR,
            read=lambda values, ours: {"approximator": tuple(values.values()), "pooled_width": 0},
            write=_approximator,
        ),
    ),
)

FAMILY = CONFIG.family(
    prompted(PATCH, PATCH, masked=True),
    by_layout(table, LAYER),
    published={"Chroma1": {}},
    prefixes=("model.diffusion_model.", ""),
    kohya="original",
)
FAMILIES = {FAMILY.name: FAMILY}
