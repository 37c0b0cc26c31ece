"""FLUX.2's transformer by the names of diffusers' Flux2Transformer2DModel and of Black Forest Labs' single files."""

from collections.abc import Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.interchange import joint_rows
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZES, by_layout, prompted
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, width_of_heads
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, Row, layers, query_key_norms
from diffusion.published.flux import table as flux_tables
from diffusion.published.flux2.network import Flux2

NAME = "Flux2Transformer2DModel"
JOINT = {
    "diffusers": tuple(
        names._replace(mlp=(f"{theirs}.linear_in", f"{theirs}.linear_out"))
        for names, theirs in zip(joint_rows.DIFFUSERS, ("ff", "ff_context"))
    ),
    "original": flux_tables.JOINT["original"],
}
SINGLE = {  # the first layer, the norms of queries and keys, the last layer
    "diffusers": ("attn.to_qkv_mlp_proj", "attn.norm_{1}.weight", "attn.to_out"),
    "original": ("linear1", "norm.{0}_norm.scale", "linear2"),
}
ENDS = {  # ours: (diffusers', the original)
    "patch_embedding": ("x_embedder", "img_in"),
    "text_embedding": ("context_embedder", "txt_in"),
    "time/hidden": ("time_guidance_embed.timestep_embedder.linear_1", "time_in.in_layer"),
    "time/out": ("time_guidance_embed.timestep_embedder.linear_2", "time_in.out_layer"),
    "strength/hidden": ("time_guidance_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
    "strength/out": ("time_guidance_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
    "image_modulation/dense": ("double_stream_modulation_img.linear", "double_stream_modulation_img.lin"),
    "text_modulation/dense": ("double_stream_modulation_txt.linear", "double_stream_modulation_txt.lin"),
    "single_modulation/dense": ("single_stream_modulation.linear", "single_stream_modulation.lin"),
    "final": ("proj_out", "final_layer.linear"),
}


def table(module: Flux2, layout: str) -> list[Row]:
    """The rows of a network, by the names of a layout, "diffusers" or "original"."""
    diffusers = layout == "diffusers"
    rows = [
        Row(f"{theirs[0 if diffusers else 1]}.weight", f"{ours}/kernel", DENSE)
        for ours, theirs in ENDS.items()
        if module.strength or not ours.startswith("strength")
    ]
    norm = "norm_out.linear" if diffusers else "final_layer.adaLN_modulation.1"
    rows += joint_rows.shift_and_scale(norm, "final_modulation", module.width, diffusers)
    joint = [row for row in joint_rows.both_streams(JOINT[layout]) if "/modulation/" not in row.ours]
    first, norms, last = SINGLE[layout]
    single = [
        Row(f"{first}.weight", "attention/qkv/kernel", DENSE),
        *query_key_norms(norms, "attention"),
        Row(f"{last}.weight", "attention/out/kernel", DENSE_OUT),
    ]
    names = ("transformer_blocks", "single_transformer_blocks") if diffusers else ("double_blocks", "single_blocks")
    rows += layers(joint, module.depth, f"{names[0]}.", "blocks/")
    rows += layers(single, module.singles, f"{names[1]}.", "single_blocks/")
    return [row for row in rows if not row.theirs.endswith(".bias")]


def _same_channels(channels: int | None, ours: Mapping[str, Any]) -> int:
    if channels not in (None, ours["channels"]):
        raise ValueError(f"out_channels = {channels} is not supported; supported: in_channels, {ours['channels']}.")
    return ours["channels"]


CONFIG = FieldTable(
    NAME,
    Flux2,
    (
        Follows("patch_size", 1),  # the patch of packed latents
        Field("in_channels", "channels", 128),
        Field("out_channels", "channels", None, MAYBE_SIZE, _same_channels, write=lambda module: None),
        Field("num_layers", "depth", 8, DEPTH),
        Field("num_single_layers", "singles", 48, DEPTH),
        *width_of_heads(48, 128),
        Field("joint_attention_dim", "text_width", 15360),
        Follows("timestep_guidance_channels", 256),
        Follows("mlp_ratio", 3.0),
        Field("axes_dims_rope", "axes", (32, 32, 32, 32), SIZES),
        Field("rope_theta", "theta", 2000, schema.number(1), read=lambda theta, ours: float(theta)),
        Follows("eps", 1e-6),
        Field("guidance_embeds", "strength", True),
    ),
)

KLEIN = {"guidance_embeds": False, "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
         "joint_attention_dim": 7680}  # fmt: skip
KLEIN_9B = KLEIN | {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}
FAMILY = CONFIG.family(
    prompted(1, 1),
    by_layout(table, JOINT),
    published={"FLUX.2 dev": {}, "FLUX.2 klein 4B": KLEIN, "FLUX.2 klein 9B": KLEIN_9B},
    prefixes=("model.diffusion_model.", ""),
    kohya="original",
)
FAMILIES = {FAMILY.name: FAMILY}
