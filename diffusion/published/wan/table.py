"""Wan's transformer by the names of diffusers' WanTransformer3DModel, and by its authors' names."""

from typing import Any

from diffusion.io import schema
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, array, by_layout, prompted
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, width_of_heads, zero_or_null
from diffusion.models.interchange.rows import (
    DENSE_OUT,
    LEADING,
    VECTOR,
    Layout,
    Row,
    layers,
    linear,
    norm,
    patches,
    within,
)
from diffusion.published.wan.network import PATCH, Wan

NAME, VACE_NAME = "WanTransformer3DModel", "WanVACETransformer3DModel"
LAYOUTS = ("diffusers", "original")
_of_pictures = patches(PATCH)
PATCHES = Layout(  # patches of one frame
    lambda a, shape: _of_pictures.to_ours(a[:, :, 0], shape), lambda a: _of_pictures.to_theirs(a)[:, :, None]
)
ENDS = {  # ours: (diffusers', the original)
    "time/hidden": ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    "time/out": ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    "modulation": ("condition_embedder.time_proj", "time_projection.1"),
    "text_hidden": ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    "text_out": ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    "final": ("proj_out", "head.head"),
}
PICTURES = {"hidden": ("ff.net.0.proj", "1"), "out": ("ff.net.2", "3")}
PICTURE_NORMS = {"norm_in": ("norm1", "0"), "norm_out": ("norm2", "4")}
PICTURE_ENDS = ("condition_embedder.image_embedder", "img_emb.proj")
PICTURE_POSITIONS = ("condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos")
FINAL_TABLE = ("scale_shift_table", "head.modulation")
LAYER_TABLE = ("scale_shift_table", "modulation")
ATTENTIONS = {"attention": ("attn1", "self_attn"), "cross_attention": ("attn2", "cross_attn")}
TEXT_NORM = ("norm2", "norm3")
MLP = {"mlp_hidden": ("ffn.net.0.proj", "ffn.0"), "mlp_out": ("ffn.net.2", "ffn.2")}
HEADS = {"query": ("to_q", "q"), "key": ("to_k", "k"), "value": ("to_v", "v")}
PICTURE_HEADS = {"picture_key": ("add_k_proj", "k_img"), "picture_value": ("add_v_proj", "v_img")}
OUT = ("to_out.0", "o")
NORMS = {"query_norm": ("norm_q", "norm_q"), "key_norm": ("norm_k", "norm_k")}
CONTROL_IN, HINT = ("proj_in", "before_proj"), ("proj_out", "after_proj")
LAYERS = schema.several(schema.integer(0), 1, 512)
PICTURE_NORM = {"picture_norm": ("norm_added_k", "norm_k_img")}


def _attention(at: int, pictures: bool) -> list[Row]:
    heads = HEADS | PICTURE_HEADS if pictures else HEADS
    norms = NORMS | PICTURE_NORM if pictures else NORMS
    rows = [row for ours, theirs in heads.items() for row in linear(theirs[at], ours)]
    rows += [Row(f"{theirs[at]}.weight", f"{ours}/scale", VECTOR) for ours, theirs in norms.items()]
    return rows + linear(OUT[at], "out", DENSE_OUT)


def _layer(module: Wan, at: int) -> list[Row]:
    rows = [Row(LAYER_TABLE[at], "table", LEADING)]
    for ours, theirs in ATTENTIONS.items():
        pictures = ours == "cross_attention" and bool(module.picture_width)
        rows += within(_attention(at, pictures), f"{theirs[at]}.", f"{ours}/")
    rows += norm(TEXT_NORM[at], "text_norm") * module.text_norm
    return rows + [row for ours, theirs in MLP.items() for row in linear(theirs[at], ours)]


def table(module: Wan, layout: str) -> list[Row]:
    """The rows of a network, by the names of a layout."""
    at = LAYOUTS.index(layout)
    rows = [*linear("patch_embedding", "patch_embedding", PATCHES), Row(FINAL_TABLE[at], "final_table", LEADING)]
    rows += [row for ours, theirs in ENDS.items() for row in linear(theirs[at], ours)]
    if module.picture_width:
        parts = [row for ours, theirs in PICTURES.items() for row in linear(theirs[at], ours)]
        parts += [row for ours, theirs in PICTURE_NORMS.items() for row in norm(theirs[at], ours)]
        rows += within(parts, f"{PICTURE_ENDS[at]}.", "picture_embedding/")
        if module.picture_tokens:
            rows.append(Row(PICTURE_POSITIONS[at], "picture_embedding/positions", LEADING))
    rows += layers(_layer(module, at), module.depth, "blocks.", "blocks/")
    if number := len(module.control_layers):
        rows += linear("vace_patch_embedding", "control_embedding", PATCHES)
        rows += linear(f"vace_blocks.0.{CONTROL_IN[at]}", "control_in")
        rows += layers([*_layer(module, at), *linear(HINT[at], "hint")], number, "vace_blocks.", "control_blocks/")
    return rows


FIELDS = (
    Follows("patch_size", (1, PATCH, PATCH)),
    *width_of_heads(40, 128),
    Field("in_channels", "in_channels", 16),
    Field("out_channels", "channels", 16, MAYBE_SIZE, read=lambda channels, ours: channels or ours["in_channels"]),
    Field("text_dim", "text_width", 4096),
    Follows("freq_dim", 256),
    Field("ffn_dim", "hidden", 13824),
    Field("num_layers", "depth", 40, DEPTH),
    Field("cross_attn_norm", "text_norm", True),
    Follows("qk_norm", "rms_norm_across_heads"),
    Follows("eps", 1e-6),
    zero_or_null("image_dim", "picture_width"),
    Follows("added_kv_proj_dim", lambda module: module.width if module.picture_width else None, default=None),
    zero_or_null("pos_embed_seq_len", "picture_tokens"),
)
UNREAD = {"rope_max_seq_len": 1024}
CONFIG = FieldTable(NAME, Wan, FIELDS, unread=UNREAD, required={"control_layers": ()})
VACE_CONFIG = FieldTable(
    VACE_NAME,
    Wan,
    (
        *FIELDS,
        Field("vace_layers", "control_layers", [*range(0, 40, 5)], LAYERS, read=lambda layers, ours: tuple(layers)),
        Field("vace_in_channels", "control_channels", 96),
    ),
    unread=UNREAD,
)


def example(module: Wan) -> tuple:
    """Arguments of a small call."""
    x, t, condition = prompted(1, PATCH, PATCH)(module)
    if module.picture_width:
        condition["patches"] = array(1, module.picture_tokens or 1, module.picture_width)
    if module.control_layers:
        condition["control"] = array(1, 1, PATCH, PATCH, module.control_channels)
    return x, t, condition


def _published(heads: int, hidden: int, layers: int, **more: Any) -> dict[str, Any]:
    return {"num_attention_heads": heads, "ffn_dim": hidden, "num_layers": layers, **more}


PICTURED = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
FAMILY = CONFIG.family(
    example,
    by_layout(table, LAYOUTS),
    published={
        "Wan 2.1 T2V, 1.3B": _published(12, 8960, 30),
        "Wan 2.1 T2V, 14B, and 2.2 T2V, A14B": _published(40, 13824, 40),
        "Wan 2.1 I2V, 14B": _published(40, 13824, 40, **PICTURED),
        "Wan 2.1 FLF2V, 14B": _published(40, 13824, 40, **PICTURED, pos_embed_seq_len=514),
        "Wan 2.2 I2V, A14B": _published(40, 13824, 40, in_channels=36),
        "Wan 2.2 TI2V, 5B": _published(24, 14336, 30, in_channels=48, out_channels=48),
    },
    prefixes=("model.diffusion_model.", ""),
    kohya="original",
)
VACE = VACE_CONFIG.family(
    example,
    by_layout(table, LAYOUTS),
    published={
        "Wan 2.1 VACE, 1.3B": _published(12, 8960, 30, vace_layers=[*range(0, 30, 2)]),
        "Wan 2.1 VACE, 14B": _published(40, 13824, 40),
    },
    prefixes=("model.diffusion_model.", ""),
    kohya="original",
)
FAMILIES = {family.name: family for family in (FAMILY, VACE)}
