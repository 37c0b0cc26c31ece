"""HunyuanVideo's transformer by the names of diffusers' HunyuanVideoTransformer3DModel and of its authors' files."""

from diffusion.models.interchange import joint_rows
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZES, by_layout, prompted
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Follows, Group, width_of_heads
from diffusion.models.interchange.joint_rows import StreamNames, both_streams, shift_and_scale
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, Row, layers, linear, norm, side_by_side, within
from diffusion.published.flux.table import diffusers_single, original_single, packed_out
from diffusion.published.hunyuan_video.network import PATCH, THETA, HunyuanVideo
from diffusion.published.wan.table import PATCHES

NAME = "HunyuanVideoTransformer3DModel"


LAYOUTS = ("diffusers", "original")
JOINT = (  # names of the video's stream and of the text's in a joint layer, for each layout
    joint_rows.DIFFUSERS,
    tuple(
        StreamNames(
            f"{stream}_mod.linear",
            (f"{stream}_attn_qkv", f"{stream}_attn_proj"),
            (f"{stream}_attn_q_norm.weight", f"{stream}_attn_k_norm.weight"),
            (f"{stream}_mlp.fc1", f"{stream}_mlp.fc2"),
        )
        for stream in ("img", "txt")
    ),
)
ENDS = {  # ours: (diffusers', the original)
    "patch_embedding": ("x_embedder.proj", "img_in.proj"),
    "final": ("proj_out", "final_layer.linear"),
    "final_modulation": ("norm_out.linear", "final_layer.adaLN_modulation.1"),
    "blocks": ("transformer_blocks", "double_blocks"),
    "single_blocks": ("single_transformer_blocks", "single_blocks"),
    "refiner/enter": ("context_embedder.proj_in", "txt_in.input_embedder"),
    "refiner/block": ("context_embedder.token_refiner.refiner_blocks", "txt_in.individual_token_refiner.blocks"),
}
CONDITIONING = {
    "conditioning/time/hidden": ("time_text_embed.timestep_embedder.linear_1", "time_in.mlp.0"),
    "conditioning/time/out": ("time_text_embed.timestep_embedder.linear_2", "time_in.mlp.2"),
    "conditioning/pooled/hidden": ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
    "conditioning/pooled/out": ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
    "conditioning/strength/hidden": ("time_text_embed.guidance_embedder.linear_1", "guidance_in.mlp.0"),
    "conditioning/strength/out": ("time_text_embed.guidance_embedder.linear_2", "guidance_in.mlp.2"),
    "refiner/conditioning/time/hidden": (
        "context_embedder.time_text_embed.timestep_embedder.linear_1",
        "txt_in.t_embedder.mlp.0",
    ),
    "refiner/conditioning/time/out": (
        "context_embedder.time_text_embed.timestep_embedder.linear_2",
        "txt_in.t_embedder.mlp.2",
    ),
    "refiner/conditioning/pooled/hidden": (
        "context_embedder.time_text_embed.text_embedder.linear_1",
        "txt_in.c_embedder.linear_1",
    ),
    "refiner/conditioning/pooled/out": (
        "context_embedder.time_text_embed.text_embedder.linear_2",
        "txt_in.c_embedder.linear_2",
    ),
}
REFINER = {
    "attention/out": ("attn.to_out.0", "self_attn_proj"),
    "hidden": ("ff.net.0.proj", "mlp.fc1"),
    "out": ("ff.net.2", "mlp.fc2"),
    "gates/dense": ("norm_out.linear", "adaLN_modulation.1"),
}
IMAGE_CONDITIONS = ("latent_concat", "token_replace")
PARTS = ("attn.to_q", "attn.to_k", "attn.to_v")  # parts of diffusers' attention; the original has one matrix


def refiner_rows(layout: str) -> list[Row]:
    """The rows of a `RefinerBlock`, by the names of a layout."""
    at = LAYOUTS.index(layout)
    if layout == "original":
        rows = linear("self_attn_qkv", "attention/qkv")
    else:
        rows = side_by_side(PARTS, "attention/qkv")
    for ours, theirs in REFINER.items():
        rows += linear(theirs[at], ours, DENSE_OUT if ours == "attention/out" else DENSE)
    return rows + norm("norm1", "attention_norm") + norm("norm2", "mlp_norm")


def table(module: HunyuanVideo, layout: str) -> list[Row]:
    """The rows of a network, by the names of a layout."""
    at = LAYOUTS.index(layout)
    names = {ours: theirs[at] for ours, theirs in ENDS.items()}
    rows = [
        *linear(names["patch_embedding"], "patch_embedding", PATCHES),
        *linear(names["refiner/enter"], "refiner/enter"),
        *shift_and_scale(names["final_modulation"], "final_modulation", module.width, layout == "diffusers"),
        *packed_out(names["final"]),
    ]
    for ours, theirs in CONDITIONING.items():
        if module.strength or "/strength/" not in ours:
            rows += linear(theirs[at], ours)
    for i in range(module.refiners):
        rows += within(refiner_rows(layout), f"{names['refiner/block']}.{i}.", f"refiner/block_{i}/")
    rows += layers(both_streams(JOINT[at]), module.depth, f"{names['blocks']}.", "blocks/")
    original = layout == "original"
    single = original_single("modulation.linear", "{1}_norm.weight") if original else diffusers_single()
    rows += layers(single, module.singles, f"{names['single_blocks']}.", "single_blocks/")
    return rows


CONFIG = FieldTable(
    NAME,
    HunyuanVideo,
    (
        Choice("image_condition_type", "image_condition", {None: "none"} | {name: name for name in IMAGE_CONDITIONS}),
        Group(
            {"in_channels": (16, None), "out_channels": (16, MAYBE_SIZE)},
            lambda values, _: {"channels": values["out_channels"] or values["in_channels"]},
            lambda module: {"out_channels": module.channels},
        ),
        Follows("in_channels", lambda module: module.in_channels, default=16),
        *width_of_heads(24, 128),
        Field("num_layers", "depth", 20, DEPTH),
        Field("num_single_layers", "singles", 40, DEPTH),
        Field("num_refiner_layers", "refiners", 2, DEPTH),
        Follows("mlp_ratio", 4.0),
        Follows("patch_size", PATCH),
        Follows("patch_size_t", 1),
        Follows("qk_norm", "rms_norm"),
        Field("guidance_embeds", "strength", True),
        Field("text_embed_dim", "text_width", 4096),
        Field("pooled_projection_dim", "pooled_width", 768),
        Follows("rope_theta", THETA),
        Field("rope_axes_dim", "axes", (16, 56, 56), SIZES),
    ),
)

FAMILY = CONFIG.family(
    prompted(1, PATCH, PATCH, masked=True),
    by_layout(table, LAYOUTS),
    published={
        "HunyuanVideo": {},
        "HunyuanVideo-I2V": {"image_condition_type": "token_replace"},
        "HunyuanVideo-I2V, 33 channels": {
            "in_channels": 33,
            "image_condition_type": "latent_concat",
            "guidance_embeds": False,
        },
    },
    prefixes=("model.diffusion_model.", ""),
    kohya="original",
)
FAMILIES = {FAMILY.name: FAMILY}
