"""Qwen-Image 2.1's transformer by the names of diffusers' QwenImage21Transformer2DModel."""

from diffusion.models.interchange.family import DEPTH, SIZES, prompted
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, width_of_heads
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, Row, layers, linear, query_key_norms, side_by_side
from diffusion.published.qwen_image_21.network import EPSILON, PATCH, QwenImage21

NAME = "QwenImage21Transformer2DModel"
ENDS = {  # {their dense layer without a bias: ours}
    "img_in": "patch_embedding",
    "txt_in.in_layer": "text_hidden",
    "txt_in.out_layer": "text_out",
    "time_text_embed.timestep_embedder.linear_1": "time/hidden",
    "time_text_embed.timestep_embedder.linear_2": "time/out",
    "modulation.1": "modulation/dense",
    "norm_out.linear": "final_scale",
    "proj_out": "final",
}
LAYER = [
    *side_by_side(("attn.to_q", "attn.to_k", "attn.to_v"), "attention/qkv", bias=False),
    *query_key_norms("attn.norm_{1}.weight", "attention"),
    Row("attn.to_out.0.weight", "attention/out/kernel", DENSE_OUT),
    *side_by_side(("img_mlp.gate_layer", "img_mlp.proj"), "mlp/hidden", bias=False),
    Row("img_mlp.out.weight", "mlp/out/kernel", DENSE),
]


def table(module: QwenImage21) -> list[Row]:
    """The rows of a network."""
    rows = [row for theirs, ours in ENDS.items() for row in linear(theirs, ours, bias=False)]
    rows.append(Row("txt_in.text_norm.weight", "text_norm/scale"))
    return rows + layers(LAYER, module.depth, "transformer_blocks.", "blocks/")


CONFIG = FieldTable(
    NAME,
    QwenImage21,
    (
        Follows("patch_size", PATCH),
        Field("in_channels", "channels", 64),
        Follows("out_channels", lambda module: module.channels, default=64, optional=True),
        Field("num_layers", "depth", 32, DEPTH),
        *width_of_heads(32, 128),
        Field("context_in_dim", "text_width", 4096),
        Field("mlp_ratio", "mlp_ratio", 3),
        Field("axes_dims_rope", "axes", (16, 56, 56), SIZES),
        Follows("eps", EPSILON),
        Field("causal_condition", "clean", True),
    ),
)

FAMILY = CONFIG.family(
    prompted(PATCH, PATCH),
    {"diffusers": table},
    published={"Qwen-Image 2.1": {}},
    prefixes=("model.diffusion_model.", ""),
)
FAMILIES = {FAMILY.name: FAMILY}
