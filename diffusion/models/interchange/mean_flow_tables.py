"""The MeanFlow family: tables for the parameters in its authors' Flax checkpoints (`flax_files`).

| family      | code              | network                                            |
|-------------|-------------------|----------------------------------------------------|
| MeanFlowDiT | Gsunshine/meanflow, models/models_dit.py | `DiT` of two times          |
| imfDiT      | Lyy-iiis/imeanflow, models/imfDiT.py     | `MiT`                       |
| pmfDiT      | Lyy-iiis/pMF, models/pmfDiT.py           | `MiT` with `clean`          |

A config holds the arguments of the class. The moving average "ema_params" of a checkpoint is read. The second head of
imfDiT and pmfDiT, which predicts the velocity at a single time, is not read, since only training uses it.
"""

from typing import Any

import jax.numpy as jnp

from diffusion.models.dit import DiT, dit_preset
from diffusion.models.interchange.dit_tables import FIXED
from diffusion.models.interchange.family import array, require
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group
from diffusion.models.interchange.flax_rows import flax_linear, flax_patches
from diffusion.models.interchange.rows import LEADING, SAME, Row, layers, query_key_norms, stacked, within
from diffusion.models.interchange.square_images import CLASSES, dit_sizes
from diffusion.models.mit import TOKENS, MiT, imf_preset, pmf_preset

PREFIXES = ("", "ema_params.net.", "params.net.", "net.")
PMF_AVERAGES = (1000, 500, 2000)  # pMF's averages, named by their half-lives in thousands of pictures
THEIR_TOKENS = {"class": "class", "strength": "omega", "start": "t_min", "end": "t_max", "duration": "time"}
THEIR_EMBEDDERS = {"strength": "omega", "start": "cfg_t_start", "end": "cfg_t_end", "duration": "h"}
SECOND_HEAD = {
    r"v_heads_\d+\..*|v_final_layer\..*": "the head for the velocity at a single time, which only training uses"
}


def _embedder(theirs: str, ours: str) -> list[Row]:
    return [
        *flax_linear(f"{theirs}.mlp.layers_0", f"{ours}/hidden"),
        *flax_linear(f"{theirs}.mlp.layers_2", f"{ours}/out"),
    ]


# ==== MeanFlow: DiT with two embeddings of times ====


def _dit_rows(module: DiT) -> list[Row]:
    table = [
        *flax_patches("x_embedder.proj", "patch_embedding", module.patch),
        *_embedder("t_embedder", "timestep_embedding"),
        *_embedder("h_embedder", "timestep_embedding_2"),
        Row("y_embedder.embedding_table._flax_embedding.embedding", "label_embedding/embedding"),
        *flax_linear("final_layer.adaLN_modulation.layers_1", "final_modulation/dense"),
        *flax_linear("final_layer.linear", "final"),
    ]
    block = [
        *flax_linear("adaLN_modulation.layers_1", "modulation/dense"),
        *flax_linear("attn.qkv", "attention/qkv"),
        *flax_linear("attn.proj", "attention/out", "inputs"),
        *flax_linear("mlp.fc1", "mlp/hidden"),
        *flax_linear("mlp.fc2", "mlp/out"),
    ]
    return table + layers(block, module.depth, "blocks.layers_", "blocks/")


def _mit_block() -> list[Row]:
    parts = {"attn.{}_proj": ("qkv", "attention/qkv"), "mlp.w{}": ("13", "mlp/hidden")}
    return [
        *(
            row
            for theirs, (names, ours) in parts.items()
            for i, name in enumerate(names)
            for row in flax_linear(theirs.format(name), ours, at=(slice(None), i), bias=False)
        ),
        *flax_linear("attn.out_proj", "attention/out", "inputs", bias=False),
        *flax_linear("mlp.w2", "mlp/out", bias=False),
        *query_key_norms("attn.{1}_norm.kernel", "attention"),
        Row("norm1.kernel", "attention_norm/scale"),
        Row("norm2.kernel", "mlp_norm/scale"),
        Row("attn_scale", "attention_gate"),
        Row("mlp_scale", "mlp_gate"),
    ]


DIT_CONFIG = FieldTable(
    "MeanFlowDiT",
    DiT,
    (*dit_sizes(32, 4), CLASSES, Field("mlp_ratio", "mlp_ratio", 4.0), Field("learn_sigma", "learn_sigma", False)),
    unread={"class_dropout_prob": None},
    required={**FIXED, "times": 2, "frequency_shift": 0, "own_embeddings": False},
)


# ==== Improved and pixel MeanFlow: MiT ====


def _mit_rows(module: MiT) -> list[Row]:
    tokens = LEADING if module.clean else SAME
    table = [
        Row("y_embedder.embedding_table._flax_embedding.embedding", "label_embedding/embedding"),
        Row("u_final_layer.norm.kernel", "final_norm/scale"),
        *flax_linear("u_final_layer.linear", "final"),
        *(Row(f"{THEIR_TOKENS[name]}_tokens", f"{name}_tokens", tokens) for name in TOKENS),
        *(
            row
            for ours, theirs in THEIR_EMBEDDERS.items()
            for row in _embedder(f"{theirs}_embedder", f"{ours}_embedding")
        ),
    ]
    if module.bottleneck:
        table += flax_patches("x_embedder.proj1", "patch_bottleneck", module.patch)
        table += flax_patches("x_embedder.proj2", "patch_embedding", 1)
    else:
        table += flax_patches("x_embedder.proj", "patch_embedding", module.patch)
    if module.clean:
        table.append(Row("pos_embed", "positions", LEADING))
    shared = module.depth - _head(module)
    for layer in range(module.depth):
        before = f"shared_blocks_{layer}" if layer < shared else f"u_heads_{layer - shared}"
        table += within(stacked(_mit_block(), layer), f"{before}.", "blocks/")
    return table


def _head(module: MiT) -> int:
    """The number of last blocks that have separate names; 8 in the published networks."""
    return min(8, module.depth - 1)


def _mit_config(name: str, clean: bool, side: int, channels: int, patch: int, depth: int) -> FieldTable:
    bottleneck = lambda width: (128 if width <= 1024 else 256) if clean else 0

    def write(module: MiT) -> dict[str, Any]:
        require(name, module, {"bottleneck": bottleneck(module.width)})
        return {}

    return FieldTable(
        name,
        MiT,
        (
            *dit_sizes(side, channels, patch, 768, depth, 12),
            CLASSES,
            Group({}, lambda values, ours: {"bottleneck": bottleneck(ours["width"])}, write),
            Follows("aux_head_depth", _head),
            Follows("mlp_ratio", 8 / 3, silent=True),
            *(
                Follows(f"num_{field}_tokens", count, silent=True)
                for field, count in (("class", 8), ("time", 4), ("cfg", 4), ("interval", 2))
            ),
        ),
        unread=dict.fromkeys(
            ("token_init_constant", "embedding_init_constant", "weight_init_constant", "eval", "eval_mode")
        ),
        required={"clean": clean},
    )


IMF_CONFIG = _mit_config("imfDiT", False, 32, 4, 2, 12)
PMF_CONFIG = _mit_config("pmfDiT", True, 256, 3, 16, 16)


def _example(module: Any) -> tuple:
    image = array(1, *(module.shape or (module.patch, module.patch, 4)))
    return image, (array(1), array(1)), array(1, dtype=jnp.int32)


MEAN_FLOW = DIT_CONFIG.family(
    _example,
    {"flax": _dit_rows},
    library="",
    published={
        f"MeanFlow-{size}, 256 x 256": DIT_CONFIG.describe(dit_preset(size, 1000, times=2, shape=(32, 32, 4)))
        for size in ("B/4", "B/2", "L/2", "XL/2")
    },
    prefixes=PREFIXES,
)
IMF = IMF_CONFIG.family(
    _example,
    {"flax": _mit_rows},
    library="",
    dropped=SECOND_HEAD,
    published={
        f"iMF-{size}, 256 x 256": IMF_CONFIG.describe(imf_preset(size, 1000, shape=(32, 32, 4)))
        for size in ("B/2", "M/2", "L/2", "XL/2")
    },
    prefixes=PREFIXES,
)
PMF = PMF_CONFIG.family(
    _example,
    {"flax": _mit_rows},
    library="",
    dropped=SECOND_HEAD,
    published={
        f"pMF-{size}, {16 * patch} x {16 * patch}": PMF_CONFIG.describe(pmf_preset(size, 1000))
        for patch in (16, 32)
        for size in (f"B/{patch}", f"L/{patch}", f"H/{patch}")
    },
    prefixes=(*(f"ema_params.{name}.net." for name in PMF_AVERAGES), *PREFIXES),  # the first prefix that occurs is read
)
FAMILIES = (MEAN_FLOW, IMF, PMF)
