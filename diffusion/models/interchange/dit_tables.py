"""DiT and SiT: diffusers' DiTTransformer2DModel, and the networks of the papers' repositories.

The two layouts hold the same numbers under different names, but the networks embed the time differently: diffusers uses
the frequencies 10000^(-i / 127), the papers' networks 10000^(-i / 128). A loaded network has the outputs of the library
that its file comes from; `module.clone(frequency_shift=0)` turns diffusers' network into the papers'.

A DiT trained in diffusers has separate embeddings of the time and the class in each block (`DiT.own_embeddings`). A
converted DiT has copies of one embedding.

SiT's velocity is the first half of the channels of the network's output; the other half is not trained. The velocity
points from the noise to the data, opposite to ours (`parameterizations.velocity`). REPA's SiT has no second half, and
its velocity has our direction. Its files also hold projectors, which are left out.
"""

from typing import Any

import numpy as np

from diffusion.io import schema
from diffusion.models.dit import DiT
from diffusion.models.interchange.family import DEPTH
from diffusion.models.interchange.field_table import ABSENT, Field, FieldTable, Follows, Group, width_of_heads
from diffusion.models.interchange.rows import (
    DENSE_OUT,
    Row,
    layers,
    linear,
    mlp,
    patches,
    side_by_side,
    stacked,
    two_linear,
    within,
)
from diffusion.models.interchange.square_images import (
    CLASSES,
    NULL_CLASS,
    dit_sizes,
    doubled_channels,
    example,
    patches_on_a_side,
    side_of_shape,
    sincos_table,
)
from diffusion.models.interchange.tensor_files import Tensors

ALIGNED = 8  # the number of blocks up to the aligned one in REPA's published networks (--encoder-depth)


def _diffusers_rows(module: DiT) -> list[Row]:
    # Every block has its own embeddings of the time and the class; in converted files they are copies.
    block = "transformer_blocks.{}.norm1.emb.".format
    embeddings = [
        *two_linear("timestep_embedder", "timestep_embedding/"),
        Row("class_embedder.embedding_table.weight", "label_embedding/embedding"),
    ]
    if module.own_embeddings:
        table = [row for layer in range(module.depth) for row in within(stacked(embeddings, layer), block(layer))]
    else:
        table = [
            row._replace(
                theirs=block(0) + row.theirs,
                copies=tuple(block(layer) + row.theirs for layer in range(1, module.depth)),
            )
            for row in embeddings
        ]
    layer = [
        *linear("norm1.linear", "modulation/dense"),
        *side_by_side((f"attn1.to_{name}" for name in "qkv"), "attention/qkv"),
        *linear("attn1.to_out.0", "attention/out", DENSE_OUT),
        *mlp("ff.net.0.proj", "ff.net.2", "mlp/"),
    ]
    return [
        *linear("pos_embed.proj", "patch_embedding", patches(module.patch)),
        *table,
        *layers(layer, module.depth, "transformer_blocks.", "blocks/"),
        *linear("proj_out_1", "final_modulation/dense"),
        *linear("proj_out_2", "final"),
    ]


def _varied(module: DiT, tensors: Tensors) -> DiT:
    """The module, with separate embeddings for each block if those in the file differ, which no config states."""
    for row in _diffusers_rows(module):
        if row.copies and {row.theirs, *row.copies} <= tensors.shapes.keys():
            first = tensors.read(row.theirs)
            if any(not np.array_equal(tensors.read(copy), first, equal_nan=True) for copy in row.copies):
                return module.clone(own_embeddings=True)
    return module


def _legacy_rows(module: DiT) -> list[Row]:
    """The rows of REPA's first checkpoints, whose blocks after the eighth, the aligned one, are a second list."""
    renamed = []
    for row in _original_rows(module):
        first, number, *rest = row.theirs.split(".")
        if first == "blocks" and int(number) >= ALIGNED:
            row = row._replace(theirs=".".join(["decoder_blocks", str(int(number) - ALIGNED), *rest]))
        renamed.append(row)
    return renamed


def _original_rows(module: DiT) -> list[Row]:
    return original_end_rows(module.patch) + layers(ORIGINAL_BLOCK, module.depth, "blocks.", "blocks/")


def original_end_rows(patch: int) -> list[Row]:
    """The rows before and after the blocks, with the names of DiT's repository and of repositories built on it.

    Args:
        patch: side of a patch in pixels.
    """
    return [
        *linear("x_embedder.proj", "patch_embedding", patches(patch)),
        *mlp("t_embedder.mlp.0", "t_embedder.mlp.2", "timestep_embedding/"),
        Row("y_embedder.embedding_table.weight", "label_embedding/embedding"),
        *linear("final_layer.adaLN_modulation.1", "final_modulation/dense"),
        *linear("final_layer.linear", "final"),
    ]


ORIGINAL_BLOCK = [
    *linear("adaLN_modulation.1", "modulation/dense"),
    *linear("attn.qkv", "attention/qkv"),
    *linear("attn.proj", "attention/out", DENSE_OUT),
    *mlp("mlp.fc1", "mlp.fc2", "mlp/"),
]
"""The rows of a block, with the names of DiT's repository and of repositories built on it."""
UNGUIDED = {"strength": False, "interval": False}
FIXED = {"norm": "layernorm", "mlp": "gelu", "positions": "sincos", "qk_norm": False, "times": 1, **UNGUIDED}


def _frequencies(module: DiT) -> dict[str, Any]:
    if module.frequency_shift != 1:
        raise ValueError(
            "diffusers embeds the time of a DiT by the frequencies 10000^(-i / 127), but this network has "
            "frequency_shift = 0 and uses 10000^(-i / 128), so diffusers would make other pictures. If you want the "
            "network that diffusers makes of these weights, use module.clone(frequency_shift=1)."
        )
    return {}


DIFFUSERS_CONFIG = FieldTable(
    "DiTTransformer2DModel",
    DiT,
    (
        side_of_shape("sample_size", 32, "in_channels", 4),
        Group({}, lambda values, ours: {"frequency_shift": 1}, _frequencies),
        *width_of_heads(16, 72),
        doubled_channels(None),
        Field("num_layers", "depth", 28, DEPTH),
        Field("patch_size", "patch", 2),
        CLASSES._replace(theirs="num_embeds_ada_norm"),
        Follows("activation_fn", "gelu-approximate"),
        Follows("norm_type", "ada_norm_zero"),
        Follows("norm_elementwise_affine", False),
        Follows("attention_bias", True),
        Follows("attention_type", "default", silent=True),  # a field of the preceding class
        # norm_eps acts only on the second norm, and changes it by less than the resolution of float32.
        Group({"norm_eps": (1e-5, schema.number(0, 1e-5))}, lambda values, ours: {}, lambda module: {}),
        # Our field: diffusers, where embeddings are always separate, ignores it with a warning.
        Field("own_embeddings", "own_embeddings", False, write=lambda module: module.own_embeddings or ABSENT),
    ),
    unread=dict.fromkeys(("dropout", "norm_num_groups", "upcast_attention")),
    required={**FIXED, "mlp_ratio": 4.0},
)
ORIGINAL_CONFIG = FieldTable(
    "DiT",
    DiT,
    (
        *dit_sizes(32, 4),
        Field("mlp_ratio", "mlp_ratio", 4.0),
        NULL_CLASS,
        CLASSES,
        Field("learn_sigma", "learn_sigma", True),
    ),
    required={**FIXED, "frequency_shift": 0, "own_embeddings": False},
)


def _published(size: int, **others: Any) -> dict[str, Any]:
    sizes = {"input_size": size, "patch_size": 2, "in_channels": 4, "hidden_size": 1152, "depth": 28, "num_heads": 16}
    return sizes | others


DIFFUSERS = DIFFUSERS_CONFIG.family(
    example,
    {"diffusers": _diffusers_rows},
    published={f"DiT-XL/2, {8 * size} x {8 * size}": {"sample_size": size, "out_channels": 8} for size in (32, 64)},
    varied=_varied,
    also={"Transformer2DModel": {"norm_type": "ada_norm_zero"}},
)
ORIGINAL = ORIGINAL_CONFIG.family(
    example,
    {"original": _original_rows, "legacy": _legacy_rows},
    library="",
    computed=lambda module: {"pos_embed": sincos_table(patches_on_a_side(module), module.width)},
    dropped={r"projectors\..*": "the projectors of representation alignment (REPA), which only training uses"},
    published={
        "DiT-XL/2, 256 x 256": _published(32),
        "DiT-XL/2, 512 x 512": _published(64),
        "SiT-XL/2, 256 x 256": _published(32),
        "SiT-XL/2 of REPA, 256 x 256": _published(32, learn_sigma=False),
        "SiT-XL/2 of REPA, 512 x 512": _published(64, learn_sigma=False),
    },
)
FAMILIES = (DIFFUSERS, ORIGINAL)
