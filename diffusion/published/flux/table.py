"""Flux's transformer by the names of diffusers' FluxTransformer2DModel and of Black Forest Labs' single files."""

from collections.abc import Mapping
from typing import Any

from diffusion.models.interchange import joint_rows
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZES, by_layout, prompted
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, width_of_heads
from diffusion.models.interchange.joint_rows import StreamNames, both_streams, shift_and_scale
from diffusion.models.interchange.rows import DENSE_OUT, Layout, Row, layers, linear, query_key_norms, side_by_side
from diffusion.published.flux.network import PATCH, Flux

NAME = "FluxTransformer2DModel"
# They order the values of a token by channel, we by pixel.
PACKED_IN = Layout(
    lambda a, shape: a.reshape(a.shape[0], -1, PATCH * PATCH).transpose(2, 1, 0).reshape(shape),
    lambda a: a.reshape(PATCH * PATCH, -1, a.shape[-1]).transpose(2, 1, 0).reshape(a.shape[-1], -1),
)
PACKED_OUT = Layout(
    lambda a, shape: a.reshape(-1, PATCH * PATCH, a.shape[-1]).transpose(2, 1, 0).reshape(shape),
    lambda a: a.reshape(a.shape[0], PATCH * PATCH, -1).transpose(2, 1, 0).reshape(-1, a.shape[0]),
)
PACKED_BIAS = Layout(
    lambda a, shape: a.reshape(-1, PATCH * PATCH).T.reshape(shape), lambda a: a.reshape(PATCH * PATCH, -1).T.reshape(-1)
)
JOINT = {  # {layout: names of the picture's stream and of the text's in a joint layer}
    "diffusers": joint_rows.DIFFUSERS,
    "original": tuple(
        StreamNames(
            f"{stream}_mod.lin",
            (f"{stream}_attn.qkv", f"{stream}_attn.proj"),
            (f"{stream}_attn.norm.query_norm.scale", f"{stream}_attn.norm.key_norm.scale"),
            (f"{stream}_mlp.0", f"{stream}_mlp.2"),
        )
        for stream in ("img", "txt")
    ),
}
ENDS = {  # ours: (diffusers', the original)
    "time/hidden": ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer"),
    "time/out": ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer"),
    "strength/hidden": ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
    "strength/out": ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
    "pooled/hidden": ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
    "pooled/out": ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
}


def diffusers_single() -> list[Row]:
    """The rows of a single layer, by diffusers' names."""
    rows = linear("norm.linear", "modulation/dense")
    rows += side_by_side(("attn.to_q", "attn.to_k", "attn.to_v"), "attention/qkv")
    rows += linear("proj_mlp", "attention/qkv", at=(slice(None), slice(3, 7)))
    rows += query_key_norms("attn.norm_{1}.weight", "attention")
    return rows + linear("proj_out", "attention/out", DENSE_OUT)


def original_single(modulation: str, norms: str) -> list[Row]:
    """The rows of a single layer, by the names of the files of Flux and HunyuanVideo.

    Args:
        modulation: their name of adaLN's layer.
        norms: their name of the norms' scales, as `query_key_norms` takes it.
    """
    return [
        *linear(modulation, "modulation/dense"),
        *linear("linear1", "attention/qkv"),
        *query_key_norms(norms, "attention"),
        *linear("linear2", "attention/out", DENSE_OUT),
    ]


def packed_out(theirs: str) -> list[Row]:
    """The rows of the last dense layer, whose outputs they order by channel, and we by pixel."""
    return [Row(f"{theirs}.weight", "final/kernel", PACKED_OUT), Row(f"{theirs}.bias", "final/bias", PACKED_BIAS)]


def table(module: Flux, layout: str) -> list[Row]:
    """The rows of a network, by the names of a layout, "diffusers" or "original"."""
    diffusers = layout == "diffusers"
    image, text, joints, singles, final, norm = (
        (
            "x_embedder",
            "context_embedder",
            "transformer_blocks",
            "single_transformer_blocks",
            "proj_out",
            "norm_out.linear",
        )
        if diffusers
        else (
            "img_in",
            "txt_in",
            "double_blocks",
            "single_blocks",
            "final_layer.linear",
            "final_layer.adaLN_modulation.1",
        )
    )
    rows = [
        *linear(image, "patch_embedding", PACKED_IN),
        *linear(text, "text_embedding"),
        *shift_and_scale(norm, "final_modulation", module.width, diffusers),
        *packed_out(final),
    ]
    for ours, theirs in ENDS.items():
        if module.strength or not ours.startswith("strength"):
            rows += linear(theirs[0 if diffusers else 1], f"conditioning/{ours}")
    rows += layers(both_streams(JOINT[layout]), module.depth, f"{joints}.", "blocks/")
    single = diffusers_single() if diffusers else original_single("modulation.lin", "norm.{0}_norm.scale")
    rows += layers(single, module.singles, f"{singles}.", "single_blocks/")
    return rows


def _of_latents(channels: int, ours: Mapping[str, Any]) -> int:
    """The channels of the latents; a token holds 2 x 2 latents."""
    return channels // PATCH**2


FIELDS = (
    Follows("patch_size", 1),  # the patch of packed tokens; packing joins 2 x 2
    Field("in_channels", "channels", 64, read=_of_latents, write=lambda module: PATCH**2 * module.channels),
    Field(
        "out_channels",
        "out_channels",
        None,
        MAYBE_SIZE,
        read=lambda channels, ours: _of_latents(channels, ours) if channels else ours["channels"],
        write=lambda module: None if module.out_channels == module.channels else PATCH**2 * module.out_channels,
    ),
    Field("num_layers", "depth", 19, DEPTH),
    Field("num_single_layers", "singles", 38, DEPTH),
    *width_of_heads(24, 128),
    Field("joint_attention_dim", "text_width", 4096),
    Field("axes_dims_rope", "axes", (16, 56, 56), SIZES),
)
"""The fields that a config of Flux's kind has for each of its networks."""

CONFIG = FieldTable(
    NAME,
    Flux,
    (*FIELDS, Field("pooled_projection_dim", "pooled_width", 768), Field("guidance_embeds", "strength", False)),
    required={"approximator": ()},  # a Chroma has one
)

FAMILY = CONFIG.family(
    prompted(PATCH, PATCH),
    by_layout(table, JOINT),
    published={
        "Flux-dev": {"guidance_embeds": True},
        "Flux-schnell": {},
        "Flux-dev for depth or edges": {"guidance_embeds": True, "in_channels": 128, "out_channels": 64},
        "Flux-dev for filling": {"guidance_embeds": True, "in_channels": 384, "out_channels": 64},
    },
    prefixes=("model.diffusion_model.", ""),
    kohya="original",
)
FAMILIES = {FAMILY.name: FAMILY}
