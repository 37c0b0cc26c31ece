"""The tables of DDT and DiT^DH, with the names in their authors' repositories.

DDT: MCG-NJU/DDT, src/models/denoiser/decoupled_improved_dit.py. DiT^DH: bytetriper/RAE, stage2/models/DDT.py, the class
`DiTwDDTHead`. A config holds the arguments of the class. A checkpoint of DDT's training has several networks, of which
"ema_denoiser" is published and sampled.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.ddt import DDT, DIT_DH, ddt_preset, dit_dh_preset
from diffusion.models.interchange.attention_layouts import alternating, cut_heads, rotary
from diffusion.models.interchange.family import DEPTH, Computed, require
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Follows, Group
from diffusion.models.interchange.lightning_rows import block_rows, options, rotary_tables, switch
from diffusion.models.interchange.rows import (
    DENSE_OUT,
    Layout,
    Row,
    layers,
    linear,
    mlp,
    patches,
    query_key_norms,
    side_by_side,
)
from diffusion.models.interchange.square_images import CLASSES, NULL_CLASS, example, side_of_shape, sincos_table

PLAIN = {"final_norm": "layernorm", "bias": False, "qk_norm": True, "positions": "rope", "span": 16.0}
PLAIN |= {"norm": "scaled_rmsnorm", "mlp": "swiglu", "mlp_ratio": 4.0, "clock": "positional", "silu_again": False}


def plain_block_rows(width: int, heads: int) -> list[Row]:
    """The rows of a block, with the names in DDT's repository and in repositories built on it.

    Args:
        width: width of the block.
        heads: number of attention heads.
    """
    turned = rotary(alternating(width // heads))
    return [
        *cut_heads("attn.qkv", width, turned, bias=False),
        *query_key_norms("attn.{1}_norm.weight", "attention", turned.scale),
        *linear("attn.proj", "attention/out", DENSE_OUT),
        Row("norm1.weight", "attention_norm/scale"),
        Row("norm2.weight", "mlp_norm/scale"),
        *side_by_side(("mlp.w1", "mlp.w3"), "mlp/hidden", bias=False),
        *linear("mlp.w2", "mlp/out", bias=False),
        *linear("adaLN_modulation.0", "modulation/dense"),
    ]


def unfolded(side: int) -> Layout:
    """The layout of a dense layer on patches: [out, C p p], ordered by channel, in files; [p p C, out] here."""
    return Layout(
        lambda a, shape: a.reshape(a.shape[0], -1, side, side).transpose(2, 3, 1, 0).reshape(shape),
        lambda a: a.reshape(side, side, -1, a.shape[-1]).transpose(3, 2, 0, 1).reshape(a.shape[-1], -1),
    )


def _folded(side: int) -> tuple[Layout, Layout]:
    """The layouts of a dense layer to patches: [C p p, in] and [C p p] in files; [in, p p C] and [p p C] here."""
    kernel = Layout(
        lambda a, shape: a.reshape(-1, side, side, a.shape[-1]).transpose(3, 1, 2, 0).reshape(shape),
        lambda a: a.reshape(a.shape[0], side, side, -1).transpose(3, 1, 2, 0).reshape(-1, a.shape[0]),
    )
    bias = Layout(
        lambda a, shape: a.reshape(-1, side, side).transpose(1, 2, 0).reshape(shape),
        lambda a: a.reshape(side, side, -1).transpose(2, 0, 1).reshape(-1),
    )
    return kernel, bias


def _embeddings(module: DDT) -> list[Row]:
    table = [
        *mlp("t_embedder.mlp.0", "t_embedder.mlp.2", "timestep_embedding/"),
        Row("y_embedder.embedding_table.weight", "label_embedding/embedding"),
    ]
    return table + [Row("t_embedder.W", "timestep_embedding/frequencies")] * (module.clock == "fourier")


def _blocks(module: DDT, block: Callable[[int, int], list[Row]]) -> list[Row]:
    """The rows of all blocks, which the files number consecutively; `block` is (width, heads) -> a block's rows."""
    table = layers(block(module.width, module.heads), module.depth, "blocks.", "blocks/")
    decoder = block(module.decoder_width, module.decoder_heads)
    return table + layers(decoder, module.decoder_depth, "blocks.", "decoder_blocks/", first=module.depth)


def _plain_rows(module: DDT) -> list[Row]:
    final, final_bias = linear("final_layer.linear", "final")
    kernel, bias = _folded(module.patch)
    table = [
        *linear("s_embedder.proj", "patch_embedding", unfolded(module.patch)),
        *linear("x_embedder.proj", "decoder_patch_embedding", unfolded(module.patch)),
        *_embeddings(module),
        *linear("final_layer.adaLN_modulation.0", "final_modulation/dense"),
        final._replace(layout=kernel),
        final_bias._replace(layout=bias),
    ]
    return table + _blocks(module, plain_block_rows)


def _head_rows(module: DDT) -> list[Row]:
    table = [
        *linear("s_embedder.proj", "patch_embedding", patches(1)),
        *linear("x_embedder.proj", "decoder_patch_embedding", patches(1)),
        *_embeddings(module),
        *linear("final_layer.adaLN_modulation.1", "final_modulation/dense"),
        *linear("final_layer.linear", "final"),
    ]
    if module.decoder_width != module.width:
        table += linear("s_projector", "decoder_condition")
    if module.final_norm == "scaled_rmsnorm":
        table.append(Row("final_layer.norm_final.weight", "final_norm/scale"))
    return table + _blocks(module, functools.partial(block_rows, module))


def both_depths(all_blocks: str, first_blocks: str, second: str) -> Group:
    """Two fields, the number of all blocks and of the blocks in the first part, which become our two depths.

    Args:
        all_blocks: the config's name for the number of all blocks, 18 by default.
        first_blocks: the config's name for the number of blocks in the first part, 4 by default.
        second: our name for the depth of the second part; the depth of the first part is `depth`.
    """

    def read(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
        return {"depth": values[first_blocks], second: values[all_blocks] - values[first_blocks]}

    def write(module: Any) -> dict[str, Any]:
        return {all_blocks: module.depth + getattr(module, second), first_blocks: module.depth}

    return Group({all_blocks: (18, DEPTH), first_blocks: (4, DEPTH)}, read, write)


def _same_sizes(module: DDT) -> dict[str, Any]:
    if (module.decoder_width, module.decoder_heads) != (module.width, module.heads):
        raise ValueError(
            f"decoder_width = {module.decoder_width} and decoder_heads = {module.decoder_heads} cannot be written in "
            f"this format. Valid: the encoder's, {module.width} and {module.heads}."
        )
    return {"hidden_size": module.width, "num_groups": module.heads}


PLAIN_CONFIG = FieldTable(
    "DDT",
    DDT,
    (
        side_of_shape("input_size", 32, "in_channels", 4),  # input_size is ours; their class accepts any size
        Field("patch_size", "patch", 2),
        Group(
            {"hidden_size": (1152, None), "num_groups": (12, None)},
            lambda values, ours: dict(
                zip(("width", "heads", "decoder_width", "decoder_heads"), 2 * (*values.values(),))
            ),
            _same_sizes,
        ),
        both_depths("num_blocks", "num_encoder_blocks", "decoder_depth"),
        CLASSES,
    ),
    # These fields do not change what the class computes.
    unread=dict.fromkeys(("learn_sigma", "deep_supervision", "weight_path", "load_ema")),
    required=PLAIN,
)


def _pair(theirs: str, ours: str, default: tuple[int, int], valid: schema.Valid) -> Group:
    """A field of two numbers, for the encoder and the decoder; a single number means both."""
    names = (ours, f"decoder_{ours}")
    pair = lambda value: value if isinstance(value, tuple) else (value, value)
    return Group(
        {theirs: (default, valid)},
        lambda values, _: dict(zip(names, pair(values[theirs]))),
        lambda module: {theirs: tuple(getattr(module, name) for name in names)},
    )


def _same_norms(module: DDT) -> dict[str, Any]:
    require("DiTwDDTHead", module, {"final_norm": module.norm})
    return {}


COUNT, DEPTHS = schema.integer(1), schema.several(DEPTH, 2, 2)
HEAD_CONFIG = FieldTable(
    "DiTwDDTHead",
    DDT,
    (
        side_of_shape("input_size", 1, "in_channels", 768),
        Choice("patch_size", "patch", {1: 1, (1, 1): 1}),
        _pair("hidden_size", "width", (1152, 2048), schema.several(COUNT, 2, 2)),
        _pair("depth", "depth", (28, 2), DEPTHS),
        _pair("num_heads", "heads", (16, 16), schema.either(COUNT, schema.several(COUNT, 2, 2))),
        Field("mlp_ratio", "mlp_ratio", 4.0),
        NULL_CLASS,
        CLASSES,
        *options(default=True),
        Group({}, lambda values, ours: {"final_norm": ours["norm"]}, _same_norms),
        Follows("use_rope", True),
        switch("use_pos_embed", "positions", True, "sincos_rope", "rope"),
    ),
    required={name: DIT_DH[name] for name in ("bias", "span", "clock", "silu_again")},
)


def _tables(module: DDT) -> dict[str, Computed]:
    side = module.shape[0] if module.shape else 1
    tables = rotary_tables("enc_feat_rope", side, module.width // module.heads)
    tables |= rotary_tables("dec_feat_rope", side, module.decoder_width // module.decoder_heads)
    return tables | ({"pos_embed": sincos_table(side, module.width)} if module.positions == "sincos_rope" else {})


PLAIN_FAMILY = PLAIN_CONFIG.family(
    functools.partial(example, channels=4),
    {"original": _plain_rows},
    library="",
    published={
        f"DDT-XL/2, {8 * side} x {8 * side}": PLAIN_CONFIG.describe(ddt_preset("XL/2", 1000, shape=(side, side, 4)))
        for side in (32, 64)
    },
    prefixes=("", "ema_denoiser."),
)
HEAD_FAMILY = HEAD_CONFIG.family(
    functools.partial(example, channels=4),
    {"original": _head_rows},
    library="",
    computed=_tables,
    published={
        f"DiT^DH-{size}, DINOv2-B": HEAD_CONFIG.describe(dit_dh_preset(f"{size}/1", 1000, shape=(16, 16, 768)))
        for size in ("S", "XL")
    },
)
FAMILIES = (PLAIN_FAMILY, HEAD_FAMILY)
