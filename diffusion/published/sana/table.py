"""SANA's transformer by the names of diffusers' SanaTransformer2DModel and of the authors' repository."""

from diffusion.io import schema
from diffusion.models.interchange.family import DEPTH, by_layout, prompted
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Follows, width_of_heads
from diffusion.models.interchange.rows import (
    CONV,
    DENSE_OUT,
    POINT,
    VECTOR,
    Row,
    cut,
    layers,
    linear,
    mlp,
    patches,
    query_key_norms,
    side_by_side,
)
from diffusion.models.interchange.vision_rows import attention
from diffusion.published.sana.network import Sana

NAME = "SanaTransformer2DModel"


def _mlp(theirs: str) -> list[Row]:
    """The three convolutions; their name has {} for "inverted", "depth" and "point"."""
    return [
        *linear(theirs.format("inverted"), "mlp/widen", POINT),
        *linear(theirs.format("depth"), "mlp/near", CONV),
        *linear(theirs.format("point"), "mlp/project", POINT, bias=False),
    ]


def _diffusers_layer(module: Sana) -> list[Row]:
    rows = [Row("scale_shift_table", "table")]
    rows += side_by_side(("attn1.to_q", "attn1.to_k", "attn1.to_v"), "attention/qkv", bias=False)
    rows += linear("attn1.to_out.0", "attention/out", DENSE_OUT)
    rows += attention("attn2.to_{1}", "attn2.to_out.0", ours="cross_attention") + _mlp("ff.conv_{}")
    if module.qk_norm:
        rows += query_key_norms("attn1.norm_{1}.weight", "attention", VECTOR)
        rows += query_key_norms("attn2.norm_{1}.weight", "cross_attention", VECTOR)
    return rows


def _original_layer(module: Sana) -> list[Row]:
    rows = [Row("scale_shift_table", "table"), *linear("attn.qkv", "attention/qkv", bias=False)]
    rows += linear("attn.proj", "attention/out", DENSE_OUT) + linear("cross_attn.q_linear", "cross_attention/query")
    rows += cut("cross_attn.kv_linear.", ("cross_attention/key", "cross_attention/value"), module.width)
    rows += linear("cross_attn.proj", "cross_attention/out", DENSE_OUT) + _mlp("mlp.{}_conv.conv")
    if module.qk_norm:
        rows += query_key_norms("attn.{1}_norm.weight", "attention", VECTOR)
        rows += query_key_norms("cross_attn.{1}_norm.weight", "cross_attention", VECTOR)
    return rows


LAYERS = {"diffusers": ("transformer_blocks", _diffusers_layer), "original": ("blocks", _original_layer)}
ENDS = {
    "diffusers": {
        "patch_embed.proj": "patch_embedding",
        "time_embed.linear": "modulation",
        "caption_projection.linear_1": "text_hidden",
        "caption_projection.linear_2": "text_out",
        "proj_out": "final",
    },
    "original": {
        "x_embedder.proj": "patch_embedding",
        "t_block.1": "modulation",
        "y_embedder.y_proj.fc1": "text_hidden",
        "y_embedder.y_proj.fc2": "text_out",
        "final_layer.linear": "final",
    },
}
SINGLE = {
    "diffusers": {"caption_norm.weight": "text_norm/scale", "scale_shift_table": "final_table"},
    "original": {"attention_y_norm.weight": "text_norm/scale", "final_layer.scale_shift_table": "final_table"},
}


def _embeddings(module: Sana, layout: str) -> dict[str, tuple[str, str]]:
    """The names of the two layers of the embeddings of the time and the strength, by ours."""
    if layout == "original":
        names = lambda name: (f"{name}_embedder.mlp.0", f"{name}_embedder.mlp.2")
        return {"timestep_embedding": names("t")} | ({"strength_embedding": names("cfg")} if module.strength else {})
    names = lambda name: (f"time_embed.{name}_embedder.linear_1", f"time_embed.{name}_embedder.linear_2")
    if module.strength:
        return {"timestep_embedding": names("timestep"), "strength_embedding": names("guidance")}
    return {"timestep_embedding": names("emb.timestep")}


def table(module: Sana, layout: str) -> list[Row]:
    """The rows of a network, by the names of a layout, "diffusers" or "original"."""
    rows = [Row(theirs, ours) for theirs, ours in SINGLE[layout].items()]
    for theirs, ours in ENDS[layout].items():
        rows += linear(theirs, ours, patches(module.patch)) if ours == "patch_embedding" else linear(theirs, ours)
    for ours, theirs in _embeddings(module, layout).items():
        rows += mlp(*theirs, f"{ours}/")
    name, layer = LAYERS[layout]
    rows += layers(layer(module), module.depth, f"{name}.", "blocks/")
    return rows


CONFIG = FieldTable(
    NAME,
    Sana,
    (
        Field("in_channels", "channels", 32),
        Follows("out_channels", lambda module: module.channels, default=32, optional=True),
        *width_of_heads(70, 32),
        Field("num_layers", "depth", 20, DEPTH),
        Field("num_cross_attention_heads", "text_heads", 20),
        Follows("cross_attention_head_dim", lambda module: module.width // module.text_heads, default=112),
        Follows("cross_attention_dim", lambda module: module.width, default=2240),
        Field("caption_channels", "text_width", 2304),
        Field("mlp_ratio", "mlp_ratio", 2.5),
        Follows("attention_bias", False),
        Field("sample_size", "side", 32),
        Field("patch_size", "patch", 1),
        Follows("norm_elementwise_affine", False),
        Follows("norm_eps", 1e-6),
        Follows("timestep_scale", 1.0, silent=True),
        Field(
            "interpolation_scale",
            "span",
            None,
            schema.optional(schema.number(1e-6)),
            read=lambda scale, ours: 0.0 if scale is None else ours["side"] // ours["patch"] / scale,
            write=lambda module: module.side // module.patch / module.span if module.span else None,
        ),
        Field("guidance_embeds", "strength", False),
        Field("guidance_embeds_scale", "strength_scale", 0.1, read=lambda scale, ours: float(scale)),
        Choice("qk_norm", "qk_norm", {None: False, "rms_norm_across_heads": True}),
    ),
    unread={"dropout": None},
)

SMALL = {"num_attention_heads": 36, "num_layers": 28, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72,
         "cross_attention_dim": 1152}  # fmt: skip
NORMED = {"qk_norm": "rms_norm_across_heads"}
FAMILY = CONFIG.family(
    prompted(),
    by_layout(table, LAYERS),
    published={
        "SANA 1.6B, 1024 pixels": {},
        "SANA 1.6B, 512 pixels": {"sample_size": 16},
        "SANA 1.6B, 2048 pixels": {"sample_size": 64, "interpolation_scale": 1.0},
        "SANA 1.6B, 4096 pixels": {"sample_size": 128, "interpolation_scale": 2.0},
        "SANA 0.6B, 1024 pixels": SMALL,
        "SANA 0.6B, 512 pixels": SMALL | {"sample_size": 16},
        "SANA 1.5, 1.6B": NORMED,
        "SANA-Sprint, 1.6B": NORMED | {"guidance_embeds": True},
        "SANA-Sprint, 0.6B": SMALL | NORMED | {"guidance_embeds": True},
        "SANA 1.5, 4.8B": NORMED | {"num_layers": 60},
    },
    prefixes=("model.diffusion_model.", ""),
    # Positions are computed; a pipeline computes the embedding of the empty text with Gemma.
    ignored=(r"pos_embed", r"y_embedder\.y_embedding"),
    dropped={r"logvar_linear\.(weight|bias)": "the weights of times in its training"},
)
FAMILIES = {FAMILY.name: FAMILY}
