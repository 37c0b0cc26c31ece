"""Lumina-Image 2's transformer by the names of diffusers' Lumina2Transformer2DModel and of its authors' files."""

from collections.abc import Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.interchange.family import DEPTH, MAYBE_NUMBER, MAYBE_SIZE, SIZES, by_layout, prompted
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, Row, layers, linear, query_key_norms, side_by_side
from diffusion.published.lumina2.network import PATCH, Lumina2

NAME = "Lumina2Transformer2DModel"
STACKS = {"noise_refiner": "picture_refiners", "context_refiner": "text_refiners", "layers": "blocks"}
ENDS = {
    "diffusers": {
        "x_embedder": "patch_embedding",
        "time_caption_embed.timestep_embedder.linear_1": "time/hidden",
        "time_caption_embed.timestep_embedder.linear_2": "time/out",
        "time_caption_embed.caption_embedder.1": "text_embedding",
        "norm_out.linear_1": "final_modulation/dense",
        "norm_out.linear_2": "final",
    },
    "original": {
        "x_embedder": "patch_embedding",
        "t_embedder.mlp.0": "time/hidden",
        "t_embedder.mlp.2": "time/out",
        "cap_embedder.1": "text_embedding",
        "final_layer.adaLN_modulation.1": "final_modulation/dense",
        "final_layer.linear": "final",
    },
}
TEXT_NORM = {"diffusers": "time_caption_embed.caption_embedder.0.weight", "original": "cap_embedder.0.weight"}


def _attention(module: Lumina2, layout: str) -> list[Row]:
    if layout == "original":  # all three in one layer
        queries, key_width = module.width, module.width // module.heads * module.key_heads
        qkv, ends = "attention.qkv.weight", [queries + i * key_width for i in range(3)]
        return [
            Row(qkv, "attention/query/kernel", DENSE, rows=(0, queries)),
            *(
                Row(qkv, "attention/key_value/kernel", DENSE, (slice(None), i), rows=(ends[i], ends[i + 1]))
                for i in range(2)
            ),
            *query_key_norms("attention.{1}_norm.weight", "attention"),
            Row("attention.out.weight", "attention/out/kernel", DENSE_OUT),
        ]
    return [
        Row("attn.to_q.weight", "attention/query/kernel", DENSE),
        *side_by_side(("attn.to_k", "attn.to_v"), "attention/key_value", bias=False),
        *query_key_norms("attn.norm_{1}.weight", "attention"),
        Row("attn.to_out.0.weight", "attention/out/kernel", DENSE_OUT),
    ]


def _layer(module: Lumina2, layout: str, conditioned: bool) -> list[Row]:
    first, last, modulation, mlp = {
        "diffusers": ("norm1.norm" if conditioned else "norm1", "norm2", "norm1.linear", "linear_"),
        "original": ("attention_norm1", "attention_norm2", "adaLN_modulation.1", "w"),
    }[layout]
    norms = {first: "attention_norm", last: "after_attention", "ffn_norm1": "mlp_norm", "ffn_norm2": "after_mlp"}
    rows = [Row(f"{theirs}.weight", f"{ours}/scale") for theirs, ours in norms.items()]
    rows += _attention(module, layout)
    rows += side_by_side((f"feed_forward.{mlp}{n}" for n in (1, 3)), "mlp/hidden", bias=False)
    rows.append(Row(f"feed_forward.{mlp}2.weight", "mlp/out/kernel", DENSE))
    return rows + (linear(modulation, "modulation/dense") if conditioned else [])


def table(module: Lumina2, layout: str) -> list[Row]:
    """The rows of a network, by the names of a layout, "diffusers" or "original"."""
    rows = [row for theirs, ours in ENDS[layout].items() for row in linear(theirs, ours)]
    rows.append(Row(TEXT_NORM[layout], "text_norm/scale"))
    for theirs, ours in STACKS.items():
        layer = _layer(module, layout, ours != "text_refiners")
        rows += layers(layer, module.depth if ours == "blocks" else module.refiners, f"{theirs}.", f"{ours}/")
    return rows


def _hidden(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The MLP's width: four times the model's or a multiplier of that, rounded down, and up to a multiple."""
    hidden, multiple = 4 * ours["width"] * (values["ffn_dim_multiplier"] or 1), values["multiple_of"]
    return {"hidden": -(-int(hidden) // multiple) * multiple}


def _multiples(module: Lumina2) -> dict[str, Any]:
    usual = module.hidden == -(-4 * module.width // 256) * 256
    narrow = module.hidden < 4 * module.width
    return {
        "multiple_of": 256 if usual else module.hidden,
        "ffn_dim_multiplier": module.hidden / (4 * module.width) if narrow else None,
    }


CONFIG = FieldTable(
    NAME,
    Lumina2,
    (
        Follows("patch_size", PATCH),
        Field("in_channels", "channels", 16),
        Follows("out_channels", lambda module: module.channels, optional=True, silent=True),
        Field("hidden_size", "width", 2304),
        Field("num_layers", "depth", 26, DEPTH),
        Field("num_refiner_layers", "refiners", 2, DEPTH),
        Field("num_attention_heads", "heads", 24),
        Field("num_kv_heads", "key_heads", 8, MAYBE_SIZE, read=lambda heads, ours: heads or ours["heads"]),
        Group({"multiple_of": (256, None), "ffn_dim_multiplier": (None, MAYBE_NUMBER)}, _hidden, _multiples),
        Field("norm_eps", "epsilon", 1e-5, schema.number(1e-12, 1)),
        Field("axes_dim_rope", "axes", (32, 32, 32), SIZES),
        Field("cap_feat_dim", "text_width", 1024),
    ),
    # axes_lens: how many positions their tables have. Their code does not read scaling_factor.
    unread={"axes_lens": [300, 512, 512], "sample_size": None, "scaling_factor": None},
)

FAMILY = CONFIG.family(
    prompted(PATCH, PATCH),
    by_layout(table, ENDS),
    published={"Lumina-Image 2": {"cap_feat_dim": 2304}},
    prefixes=("model.diffusion_model.", ""),
    ignored=(r"norm_final\.weight",),  # nothing reads this tensor of single files
)
FAMILIES = {FAMILY.name: FAMILY}
