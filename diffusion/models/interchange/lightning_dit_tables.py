"""LightningDiT: the names of the authors' repository (hustvl/LightningDiT, models/lightningdit.py).

A config holds the arguments of its class there. A checkpoint of its train.py has several networks: "ema" is the one
that is published and sampled.
"""

import functools

from diffusion.models.dit import DiT
from diffusion.models.interchange.dit_tables import UNGUIDED, original_end_rows
from diffusion.models.interchange.family import Computed
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.lightning_rows import block_rows, options, rotary_tables, switch
from diffusion.models.interchange.rows import Row, layers
from diffusion.models.interchange.square_images import CLASSES, NULL_CLASS, dit_sizes, example, sincos_table


def _rows(module: DiT) -> list[Row]:
    table = original_end_rows(module.patch)
    if module.norm == "scaled_rmsnorm":
        table.append(Row("final_layer.norm_final.weight", "final_norm/scale"))
    return table + layers(block_rows(module, module.width, module.heads), module.depth, "blocks.", "blocks/")


CONFIG = FieldTable(
    "LightningDiT",
    DiT,
    (
        *dit_sizes(32, 32),
        Field("mlp_ratio", "mlp_ratio", 4.0),
        NULL_CLASS,
        CLASSES,
        *options(default=False),
        switch("use_rope", "positions", False, "sincos_rope", "sincos"),
        Follows("learn_sigma", False, silent=True),
    ),
    unread={"use_checkpoint": None},
    required={"learn_sigma": False, "times": 1, **UNGUIDED, "frequency_shift": 0, "own_embeddings": False},
)


def _computed(module: DiT) -> dict[str, Computed]:
    side = (module.shape[0] if module.shape else 0) // module.patch
    tables = {"pos_embed": sincos_table(side, module.width)}
    if module.positions == "sincos_rope":
        tables |= rotary_tables("feat_rope", side, module.width // module.heads)
    return tables


SMALL_LATENTS = {"input_size": 16, "patch_size": 1, "use_swiglu": True, "use_rope": True, "use_rmsnorm": True}
FAMILY = CONFIG.family(
    functools.partial(example, channels=32),
    {"original": _rows},
    library="",
    computed=_computed,
    published={"LightningDiT-XL/1, 256 x 256": SMALL_LATENTS},
    prefixes=("", "module."),
)
