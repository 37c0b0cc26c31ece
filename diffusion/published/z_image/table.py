"""Z-Image's transformer by the names of diffusers' ZImageTransformer2DModel and of its authors' single files."""

from diffusion.io import schema
from diffusion.models.interchange.family import DEPTH, SIZES, by_layout, prompted
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import (
    DENSE,
    DENSE_OUT,
    LEADING,
    Row,
    layers,
    linear,
    mlp,
    query_key_norms,
    side_by_side,
)
from diffusion.published.z_image.network import PATCH, ZImage

NAME = "ZImageTransformer2DModel"
NORMS = {
    "attention_norm": "attention_norm1",
    "after_attention": "attention_norm2",
    "mlp_norm": "ffn_norm1",
    "after_mlp": "ffn_norm2",
}
ENDS = {"diffusers": ("all_x_embedder.2-1", "all_final_layer.2-1"), "original": ("x_embedder", "final_layer")}
STACKS = {"noise_refiner": "picture_refiners", "context_refiner": "text_refiners", "layers": "blocks"}


def _attention(layout: str) -> list[Row]:
    if layout == "original":  # all three in one layer
        return [
            Row("attention.qkv.weight", "attention/qkv/kernel", DENSE),
            *query_key_norms("attention.{1}_norm.weight", "attention"),
            Row("attention.out.weight", "attention/out/kernel", DENSE_OUT),
        ]
    return [
        *side_by_side((f"attention.to_{name}" for name in "qkv"), "attention/qkv", bias=False),
        *query_key_norms("attention.norm_{1}.weight", "attention"),
        Row("attention.to_out.0.weight", "attention/out/kernel", DENSE_OUT),
    ]


def _layer(layout: str, conditioned: bool) -> list[Row]:
    rows = [Row(f"{theirs}.weight", f"{ours}/scale") for ours, theirs in NORMS.items()]
    rows += _attention(layout) + side_by_side(("feed_forward.w1", "feed_forward.w3"), "mlp/hidden", bias=False)
    rows.append(Row("feed_forward.w2.weight", "mlp/out/kernel", DENSE))
    return rows + (linear("adaLN_modulation.0", "modulation/dense") if conditioned else [])


def table(module: ZImage, layout: str) -> list[Row]:
    """The rows of a network, by the names of a layout, "diffusers" or "original"."""
    enter, leave = ENDS[layout]
    rows = [
        *linear(enter, "patch_embedding"),
        *mlp("t_embedder.mlp.0", "t_embedder.mlp.2", "time/"),
        Row("cap_embedder.0.weight", "text_norm/scale"),
        *linear("cap_embedder.1", "text_embedding"),
        Row("x_pad_token", "picture_padding", LEADING),
        Row("cap_pad_token", "text_padding", LEADING),
        *linear(f"{leave}.adaLN_modulation.1", "final_modulation/dense"),
        *linear(f"{leave}.linear", "final"),
    ]
    for theirs, ours in STACKS.items():
        layer = _layer(layout, ours != "text_refiners")
        rows += layers(layer, module.depth if ours == "blocks" else module.refiners, f"{theirs}.", f"{ours}/")
    return rows


CONFIG = FieldTable(
    NAME,
    ZImage,
    (
        Follows("all_patch_size", (PATCH,)),
        Follows("all_f_patch_size", (1,)),
        Field("in_channels", "channels", 16),
        Field("dim", "width", 3840),
        Field("n_layers", "depth", 30, DEPTH),
        Field("n_refiner_layers", "refiners", 2, DEPTH),
        Field("n_heads", "heads", 30),
        Follows("n_kv_heads", lambda module: module.heads, default=30),
        Field("norm_eps", "epsilon", 1e-5, schema.number(1e-12, 1)),
        Follows("qk_norm", True),
        Follows("siglip_feat_dim", None, silent=True),
        Field("cap_feat_dim", "text_width", 2560),
        Field("rope_theta", "theta", 256.0, schema.number(1), read=lambda theta, ours: float(theta)),
        Follows("t_scale", 1000.0),
        Field("axes_dims", "axes", (32, 48, 48), SIZES),
    ),
    unread={"axes_lens": [1536, 512, 512]},  # how many positions their tables have
)

FAMILY = CONFIG.family(
    prompted(PATCH, PATCH, masked=True),
    by_layout(table, ENDS),
    published={"Z-Image": {}},
    prefixes=("model.diffusion_model.", ""),
    ignored=(r"norm_final\.weight",),  # nothing reads this tensor of single files
)
FAMILIES = {FAMILY.name: FAMILY}
