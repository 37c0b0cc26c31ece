"""PixArt-alpha and PixArt-Sigma: diffusers' PixArtTransformer2DModel, and the names of the authors' repositories.

The config of our few-step students that receive the scale of the guidance has Flux's field guidance_embeds, which
diffusers' PixArt lacks.

A published file does not record the size of its training pictures. Among the published networks, only PixArt-alpha for
256 pixels has other positions of the patches (interpolation_scale), so a single file without a config counts as a
network of 512 pixels or more.
"""

from collections.abc import Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, array
from diffusion.models.interchange.field_table import ABSENT, Field, FieldTable, Follows, width_of_heads
from diffusion.models.interchange.rows import (
    DENSE_OUT,
    Row,
    cut,
    layers,
    linear,
    mlp,
    patches,
    side_by_side,
    two_linear,
)
from diffusion.models.interchange.square_images import doubled_channels, side_of_shape
from diffusion.models.interchange.vision_rows import attention
from diffusion.published.pixart.network import PixArt

LAYER = [
    Row("scale_shift_table", "table"),
    *side_by_side(("attn1.to_q", "attn1.to_k", "attn1.to_v"), "attention/qkv"),
    *linear("attn1.to_out.0", "attention/out", DENSE_OUT),
    *attention("attn2.to_{1}", "attn2.to_out.0", ours="cross_attention"),
    *mlp("ff.net.0.proj", "ff.net.2", "mlp/"),
]
"""The rows of a layer, by diffusers' names."""


def _diffusers_rows(module: PixArt) -> list[Row]:
    embedder = lambda name, ours: two_linear(f"adaln_single.emb.{name}_embedder", ours)
    table = [
        *linear("pos_embed.proj", "patch_embedding", patches(module.patch)),
        *embedder("timestep", "timestep_embedding/"),
        *linear("adaln_single.linear", "modulation"),
        *two_linear("caption_projection", "text_"),
        Row("scale_shift_table", "final_table"),
        *linear("proj_out", "final"),
    ]
    if module.strength:
        table += embedder("guidance", "strength_embedding/")
    if module.sized:
        table += embedder("resolution", "original_embedding/")
        table += embedder("aspect_ratio", "ratio_embedding/")
    return table + layers(LAYER, module.depth, "transformer_blocks.", "blocks/")


def _original_rows(module: PixArt) -> list[Row]:
    embedder = lambda name: (f"{name}.mlp.0", f"{name}.mlp.2")
    table = [
        *linear("x_embedder.proj", "patch_embedding", patches(module.patch)),
        *mlp(*embedder("t_embedder"), "timestep_embedding/"),
        *linear("t_block.1", "modulation"),
        *mlp("y_embedder.y_proj.fc1", "y_embedder.y_proj.fc2", "text_"),
        Row("final_layer.scale_shift_table", "final_table"),
        *linear("final_layer.linear", "final"),
    ]
    if module.sized:
        table += mlp(*embedder("csize_embedder"), "original_embedding/")
        table += mlp(*embedder("ar_embedder"), "ratio_embedding/")
    layer = [
        Row("scale_shift_table", "table"),
        *linear("attn.qkv", "attention/qkv"),
        *linear("attn.proj", "attention/out", DENSE_OUT),
        *linear("cross_attn.q_linear", "cross_attention/query"),
        *cut("cross_attn.kv_linear.", ("cross_attention/key", "cross_attention/value"), module.width),
        *linear("cross_attn.proj", "cross_attention/out", DENSE_OUT),
        *mlp("mlp.fc1", "mlp.fc2", "mlp/"),
    ]
    return table + layers(layer, module.depth, "blocks.", "blocks/")


def _text_width(channels: int | None, ours: Mapping[str, Any]) -> int:
    if channels is None:
        raise ValueError("caption_channels = None is not supported. Valid: the width of the text.")
    return channels


def _span(scale: float | None, ours: Mapping[str, Any]) -> float:
    """The number of patches of a side, divided by the scale by which their positions are interpolated."""
    side = ours["shape"][0]
    return side // ours["patch"] / (max(side // 64, 1) if scale is None else scale)


def _scale(module: PixArt) -> float:
    scale = module.shape[0] // module.patch / module.span
    return int(scale) if scale == int(scale) else scale


CONFIG = FieldTable(
    "PixArtTransformer2DModel",
    PixArt,
    (
        *width_of_heads(16, 72),
        side_of_shape("sample_size", 128, "in_channels", 4),
        doubled_channels(8),
        Field("num_layers", "depth", 28, DEPTH),
        Follows("cross_attention_dim", lambda module: module.width, default=1152),
        Field("patch_size", "patch", 2),
        Field("interpolation_scale", "span", None, schema.optional(schema.number(1e-6)), _span, _scale),
        Field(
            "use_additional_conditions",
            "sized",
            None,
            schema.optional(schema.FLAG),
            read=lambda sized, ours: ours["shape"][0] == 128 if sized is None else sized,
        ),
        Field("caption_channels", "text_width", None, MAYBE_SIZE, _text_width),
        Follows("activation_fn", "gelu-approximate"),
        Follows("norm_type", "ada_norm_single"),
        Follows("norm_elementwise_affine", False),
        Follows("norm_eps", 1e-6),
        Follows("attention_bias", True),
        Follows("attention_type", "default", silent=True),
        Field("guidance_embeds", "strength", False, write=lambda module: module.strength or ABSENT),
    ),
    unread={"num_embeds_ada_norm": 1000, "dropout": None, "norm_num_groups": None, "upcast_attention": None},
    required={"mlp_ratio": 4.0},
)


def _example(module: PixArt) -> tuple:
    condition = {"text": array(1, 1, module.text_width)} | ({"size": array(1, 6)} if module.sized else {})
    condition |= {"strength": array(1)} if module.strength else {}
    return array(1, module.patch, module.patch, module.shape[-1]), array(1), condition


def _published(size: int, scale: float, sized: bool) -> dict[str, Any]:
    return {
        "sample_size": size,
        "interpolation_scale": scale,
        "use_additional_conditions": sized,
        "caption_channels": 4096,
    }


FAMILY = CONFIG.family(
    _example,
    {"diffusers": _diffusers_rows, "original": _original_rows},
    # Positions are computed; a pipeline computes the embedding of the empty text with T5.
    ignored=(r"pos_embed", r"y_embedder\.y_embedding"),
    published={
        "PixArt-alpha, 512 x 512": _published(64, 1, False),
        "PixArt-alpha, 1024 pixels": _published(128, 2, True),
        "PixArt-alpha, 256 x 256": _published(32, 1, False),
        "PixArt-Sigma, 256 x 256": _published(32, 0.5, False),
        "PixArt-Sigma, 512 pixels": _published(64, 1, False),
        "PixArt-Sigma, 1024 pixels": _published(128, 2, False),
        "PixArt-Sigma, 2048 pixels": _published(256, 4, False),
    },
    also={"Transformer2DModel": {"norm_type": "ada_norm_single"}},
)
FAMILIES = {FAMILY.name: FAMILY}
