"""JiT: the names of the authors' repository (model_jit.py); no library has adopted it.

A config holds the arguments of its class there. The authors publish pickled files, whose entries "model_ema1" and
"model_ema2" hold the averages with the prefix "net."; what is read here is one of them, written by
`safetensors.torch.save_file`.
"""

from typing import Any

from diffusion.models.interchange.family import DEPTH, Computed
from diffusion.models.interchange.field_table import Field, FieldTable
from diffusion.models.interchange.lightning_rows import block_rows, rotary_tables
from diffusion.models.interchange.rows import LEADING, POINT, Row, layers, linear, mlp, patches
from diffusion.models.interchange.square_images import CLASSES, dit_sizes, example, patches_on_a_side, sincos_table
from diffusion.models.jit import PRESETS, JiT, jit_preset


def _rows(module: JiT) -> list[Row]:
    table = [
        Row("x_embedder.proj1.weight", "patch_bottleneck/kernel", patches(module.patch)),
        *linear("x_embedder.proj2", "patch_embedding", POINT),
        *mlp("t_embedder.mlp.0", "t_embedder.mlp.2", "timestep_embedding/"),
        Row("y_embedder.embedding_table.weight", "label_embedding/embedding"),
        Row("final_layer.norm_final.weight", "final_norm/scale"),
        *linear("final_layer.adaLN_modulation.1", "final_modulation/dense"),
        *linear("final_layer.linear", "final"),
    ]
    if module.class_tokens:
        table += [Row("in_context_posemb", "class_positions", LEADING)]
    block, early = block_rows(module, module.width, module.heads), module.class_start
    table += layers(block, early, "blocks.", "early_blocks/")
    return table + layers(block, module.depth - early, "blocks.", "blocks/", first=early)


CONFIG = FieldTable(
    "JiT",
    JiT,
    (
        *dit_sizes(256, 3, patch=16, width=1024, depth=24),
        Field("mlp_ratio", "mlp_ratio", 4.0),
        CLASSES,
        Field("bottleneck_dim", "bottleneck", 128),
        Field("in_context_len", "class_tokens", 32, DEPTH),
        Field("in_context_start", "class_start", 8, DEPTH),
    ),
    unread={"attn_drop": None, "proj_drop": None},  # dropout draws only in training
)


def _computed(module: JiT) -> dict[str, Computed]:
    side = patches_on_a_side(module)
    head = module.width // module.heads
    return {
        "pos_embed": sincos_table(side, module.width),
        **rotary_tables("feat_rope", side, head),
        **rotary_tables("feat_rope_incontext", side, head, module.class_tokens),
    }


def _published(name: str) -> dict[str, Any]:
    side = int(name[2:]) * 16
    return CONFIG.describe(jit_preset(name, shape=(side, side, 3)))


FAMILY = CONFIG.family(
    example,
    {"original": _rows},
    library="",
    computed=_computed,
    published={f"JiT-{name}, {int(name[2:]) * 16} x {int(name[2:]) * 16}": _published(name) for name in PRESETS},
    prefixes=("", "net."),
)
