"""Krea 2's transformer by the names of diffusers' Krea2Transformer2DModel and of its authors' files."""

from typing import Any

from diffusion.io import schema
from diffusion.models.interchange.family import DEPTH, SIZES, by_layout, prompted
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, width_of_heads
from diffusion.models.interchange.rows import (
    DENSE,
    DENSE_OUT,
    VECTOR,
    Row,
    layers,
    linear,
    query_key_norms,
    renamed,
    side_by_side,
    two_linear,
)
from diffusion.published.flux.table import PACKED_IN, packed_out
from diffusion.published.krea2.network import PATCH, THETA, TIMES, Krea2

NAME = "Krea2Transformer2DModel"
ORIGINAL = {  # {a part of diffusers' names: its authors'}, in the order in which they are replaced
    "img_in.": "first.",
    "time_embed.linear_1.": "tmlp.0.",
    "time_embed.linear_2.": "tmlp.2.",
    "time_mod_proj.": "tproj.1.",
    "txt_in.norm.weight": "txtmlp.0.scale",
    "txt_in.linear_1.": "txtmlp.1.",
    "txt_in.linear_2.": "txtmlp.3.",
    "text_fusion.": "txtfusion.",
    "transformer_blocks.": "blocks.",
    "final_layer.linear.": "last.linear.",
    "final_layer.norm.weight": "last.norm.scale",
    "final_layer.scale_shift_table": "last.modulation.lin",
    ".attn.to_q.": ".attn.wq.",
    ".attn.to_k.": ".attn.wk.",
    ".attn.to_v.": ".attn.wv.",
    ".attn.to_out.0.": ".attn.wo.",
    ".attn.to_gate.": ".attn.gate.",
    ".attn.norm_q.weight": ".attn.qknorm.qnorm.scale",
    ".attn.norm_k.weight": ".attn.qknorm.knorm.scale",
    ".ff.": ".mlp.",
    ".norm1.weight": ".prenorm.scale",
    ".norm2.weight": ".postnorm.scale",
    ".scale_shift_table": ".mod.lin",
}
TEXT_LAYER = [
    Row("norm1.weight", "attention_norm/scale"),
    Row("norm2.weight", "mlp_norm/scale"),
    Row("attn.to_q.weight", "attention/query/kernel", DENSE),
    *side_by_side(("attn.to_k", "attn.to_v"), "attention/key_value", bias=False),
    Row("attn.to_gate.weight", "attention/gate/kernel", DENSE),
    *query_key_norms("attn.norm_{1}.weight", "attention"),
    Row("attn.to_out.0.weight", "attention/out/kernel", DENSE_OUT),
    *side_by_side(("ff.gate", "ff.up"), "mlp/hidden", bias=False),
    Row("ff.down.weight", "mlp/out/kernel", DENSE),
]


def table(module: Krea2, layout: str) -> list[Row]:
    """The rows of a network, by the names of a layout, "diffusers" or "original"."""
    original = layout == "original"
    modulation = Row("scale_shift_table", "table", VECTOR) if original else Row("scale_shift_table", "table")
    rows = [
        *linear("img_in", "patch_embedding", PACKED_IN),
        *two_linear("time_embed", "time_"),
        *linear("time_mod_proj", "modulation"),
        Row("txt_in.norm.weight", "text_norm/scale"),
        *two_linear("txt_in", "text_"),
        Row("text_fusion.projector.weight", "state_weights/kernel", DENSE),
        Row("final_layer.norm.weight", "final_norm/scale"),
        Row("final_layer.scale_shift_table", "final_table"),
        *packed_out("final_layer.linear"),
        *layers(TEXT_LAYER, module.state_layers, "text_fusion.layerwise_blocks.", "state_blocks/"),
        *layers(TEXT_LAYER, module.text_layers, "text_fusion.refiner_blocks.", "text_blocks/"),
        *layers([*TEXT_LAYER, modulation], module.depth, "transformer_blocks.", "blocks/"),
    ]
    return renamed(rows, ORIGINAL) if original else rows


def _channels(values: int, _: Any) -> int:
    if values % PATCH**2:
        raise ValueError(f"in_channels = {values} must be a multiple of {PATCH**2}, the pixels of a patch.")
    return values // PATCH**2


CONFIG = FieldTable(
    NAME,
    Krea2,
    (
        Field("in_channels", "channels", 64, read=_channels, write=lambda module: PATCH**2 * module.channels),
        Field("num_layers", "depth", 28, DEPTH),
        *width_of_heads(48, 128),
        Field("num_key_value_heads", "key_heads", 12),
        Field("intermediate_size", "hidden", 16384),
        Follows("timestep_embed_dim", TIMES),
        Field("num_text_layers", "states", 12, DEPTH),
        Field(
            "text_hidden_dim",
            "text_width",
            2560,
            read=lambda size, ours: size * ours["states"],
            write=lambda module: module.text_width // module.states,
        ),
        Field("text_num_attention_heads", "text_heads", 20),
        Field("text_num_key_value_heads", "text_key_heads", 20),
        Field("text_intermediate_size", "text_hidden", 6912),
        Field("num_layerwise_text_blocks", "state_layers", 2, DEPTH),
        Field("num_refiner_text_blocks", "text_layers", 2, DEPTH),
        Field("axes_dims_rope", "axes", (32, 48, 48), SIZES),
        Follows("rope_theta", THETA),
        Field("norm_eps", "epsilon", 1e-5, schema.number(1e-12, 1)),
    ),
)

FAMILY = CONFIG.family(
    prompted(PATCH, PATCH),
    by_layout(table, ("diffusers", "original")),
    published={"Krea 2": {}},
    prefixes=("model.diffusion_model.", ""),
)
FAMILIES = {FAMILY.name: FAMILY}
