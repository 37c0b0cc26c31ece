"""MDTv2: the names of the authors' repository (sail-sg/MDT, masked_diffusion/models.py), whose checkpoints are pickled.

A config holds the arguments of its class there; `mask_ratio` is the least share that its training leaves out.
"""

import jax.numpy as jnp
import numpy as np

from diffusion.models.interchange.dit_tables import ORIGINAL_BLOCK, original_end_rows
from diffusion.models.interchange.family import DEPTH, MAYBE_NUMBER, Computed, array
from diffusion.models.interchange.field_table import Field, FieldTable, Group
from diffusion.models.interchange.rows import LEADING, Row, layers, linear, with_ones, within
from diffusion.models.interchange.square_images import CLASSES, NULL_CLASS, dit_sizes
from diffusion.models.mdt import MDT, distances, mdt_preset

TOKEN = with_ones(before=2)


BLOCK = [*ORIGINAL_BLOCK, Row("attn.rel_pos_bias.relative_position_bias_table", "relative_positions")]
WITH_SKIP = [*BLOCK, *linear("skip_linear", "skip")]


def _stacks(module: MDT) -> list[tuple[list[Row], int, str, str]]:
    """(rows of a block, length, their name, our path) of each stack."""
    half = (module.depth - module.decoder_depth) // 2
    return [
        (BLOCK, half, "en_inblocks.", "in_blocks/"),
        (WITH_SKIP, half, "en_outblocks.", "out_blocks/"),
        (WITH_SKIP, module.decoder_depth, "de_blocks.", "decoder_blocks/"),
    ]


def _rows(module: MDT) -> list[Row]:
    return [
        *original_end_rows(module.patch),
        Row("pos_embed", "positions", LEADING),
        Row("decoder_pos_embed", "decoder_positions", LEADING),
        Row("mask_token", "mask_token", TOKEN),
        *within(BLOCK, "sideblocks.0.", "side_block/"),
        *(row for stack in _stacks(module) for row in layers(*stack)),
    ]


CONFIG = FieldTable(
    "MDTv2",
    MDT,
    (
        *dit_sizes(32, 4),
        Field("mlp_ratio", "mlp_ratio", 4.0),
        NULL_CLASS,
        CLASSES,
        Field("learn_sigma", "learn_sigma", True),
        Field("decode_layer", "decoder_depth", 4, DEPTH),
        Group({"mask_ratio": (None, MAYBE_NUMBER)}, lambda values, ours: {}, lambda module: {}),  # for training
    ),
)


def _distances(module: MDT) -> dict[str, Computed]:
    side = module.shape[0] // module.patch
    blocks = ["sideblocks.0"]
    blocks += [f"{theirs}{layer}" for _, length, theirs, _ in _stacks(module) for layer in range(length)]
    table = Computed((side**2, side**2), lambda: distances(side, side).astype(np.int64))
    return {f"{block}.attn.rel_pos_bias.relative_position_index": table for block in blocks}


FAMILY = CONFIG.family(
    lambda module: (array(1, *module.shape), array(1), array(1, dtype=jnp.int32)),
    {"original": _rows},
    library="",
    computed=_distances,
    published={"MDTv2-XL/2, 256 x 256": CONFIG.describe(mdt_preset("XL/2", learn_sigma=True))},
)
