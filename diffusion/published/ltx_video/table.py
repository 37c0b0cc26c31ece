"""LTX-Video's transformer: diffusers' LTXVideoTransformer3DModel, and the names of its authors' files."""

from diffusion.models.interchange.family import DEPTH, prompted
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, width_of_heads
from diffusion.models.interchange.rows import VECTOR, Row, layers, linear, mlp, query_key_norms, renamed, two_linear
from diffusion.models.interchange.vision_rows import attention
from diffusion.published.ltx_video.network import LTXVideo

NAME = "LTXVideoTransformer3DModel"
ORIGINAL = {
    "proj_in.": "patchify_proj.",
    "time_embed.": "adaln_single.",
    ".norm_q.": ".q_norm.",
    ".norm_k.": ".k_norm.",
}


def wide_attention(theirs: str, ours: str, gated: bool = False) -> list[Row]:
    """The rows of a `WideAttention`.

    Args:
        theirs: its name, "attn1".
        ours: its path.
        gated: whether its heads have gates.
    """
    return [
        *attention(f"{theirs}.to_{{1}}", f"{theirs}.to_out.0", ours=ours),
        *query_key_norms(f"{theirs}.norm_{{1}}.weight", ours, VECTOR),
        *(linear(f"{theirs}.to_gate_logits", f"{ours}/gate") if gated else ()),
    ]


LAYER = [
    Row("scale_shift_table", "table"),
    *wide_attention("attn1", "attention"),
    *wide_attention("attn2", "cross_attention"),
    *mlp("ff.net.0.proj", "ff.net.2", "mlp/"),
]


def _rows(module: LTXVideo) -> list[Row]:
    return [
        *linear("proj_in", "patch_embedding"),
        *two_linear("time_embed.emb.timestep_embedder", "timestep_embedding/"),
        *linear("time_embed.linear", "modulation"),
        *two_linear("caption_projection", "text_"),
        Row("scale_shift_table", "final_table"),
        *linear("proj_out", "final"),
        *layers(LAYER, module.depth, "transformer_blocks.", "blocks/"),
    ]


CONFIG = FieldTable(
    NAME,
    LTXVideo,
    (
        Field("in_channels", "channels", 128),
        Follows("out_channels", lambda module: module.channels, default=128, optional=True),
        Follows("patch_size", 1),
        Follows("patch_size_t", 1),
        *width_of_heads(32, 64),
        Follows("cross_attention_dim", lambda module: module.width, default=2048),
        Field("num_layers", "depth", 28, DEPTH),
        Follows("activation_fn", "gelu-approximate"),
        Follows("qk_norm", "rms_norm_across_heads"),
        Follows("norm_elementwise_affine", False),
        Follows("norm_eps", 1e-6),
        Field("caption_channels", "text_width", 4096),
        Follows("attention_bias", True),
        Follows("attention_out_bias", True),
    ),
)

FAMILY = CONFIG.family(
    prompted(1, 1, 1),
    {"diffusers": _rows, "original": lambda module: renamed(_rows(module), ORIGINAL)},
    published={
        "LTX-Video, 2 B": {},
        "LTX-Video 0.9.7, 13 B": {"attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48},
    },
    prefixes=("model.diffusion_model.", ""),
)
FAMILIES = {FAMILY.name: FAMILY}
