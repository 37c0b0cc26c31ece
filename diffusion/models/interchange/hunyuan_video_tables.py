"""HunyuanVideo's transformer by diffusers' names, HunyuanVideoTransformer3DModel."""

__all__ = []

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.hunyuan_video import PATCH, THETA, HunyuanVideo
from diffusion.models.interchange import joint_rows
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZE, SIZES, Family, Fields, Refusal
from diffusion.models.interchange.flux_tables import PACKED_BIAS, PACKED_OUT, diffusers_single
from diffusion.models.interchange.joint_rows import shift_and_scale, stream_rows
from diffusion.models.interchange.rows import DENSE_OUT, Row, linear, stacked, within
from diffusion.models.interchange.wan_tables import PATCHES

NAME = "HunyuanVideoTransformer3DModel"


def _conditioning(theirs: str, ours: str, strength: bool) -> list[Row]:
    names = {"time": "timestep_embedder", "pooled": "text_embedder"} | (
        {"strength": "guidance_embedder"} if strength else {}
    )
    ends = (("linear_1", "hidden"), ("linear_2", "out"))
    return [
        row
        for part, name in names.items()
        for end, layer in ends
        for row in linear(f"{theirs}.{name}.{end}", f"{ours}/{part}/{layer}")
    ]


def _norm(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")]


REFINER = [
    *_norm("norm1", "attention_norm"),
    *(row for i, name in enumerate("qkv") for row in linear(f"attn.to_{name}", "attention/qkv", at=(slice(None), i))),
    *linear("attn.to_out.0", "attention/out", DENSE_OUT),
    *_norm("norm2", "mlp_norm"),
    *linear("ff.net.0.proj", "hidden"),
    *linear("ff.net.2", "out"),
    *linear("norm_out.linear", "gates/dense"),
]


def _rows(module: HunyuanVideo) -> list[Row]:
    rows = [
        *linear("x_embedder.proj", "patch_embedding", PATCHES),
        *_conditioning("time_text_embed", "conditioning", module.strength),
        *_conditioning("context_embedder.time_text_embed", "refiner/conditioning", False),
        *linear("context_embedder.proj_in", "refiner/enter"),
        *shift_and_scale("norm_out.linear", "final_modulation", module.width, True),
        Row("proj_out.weight", "final/kernel", PACKED_OUT),
        Row("proj_out.bias", "final/bias", PACKED_BIAS),
    ]
    for i in range(module.refiners):
        rows += within(REFINER, f"context_embedder.token_refiner.refiner_blocks.{i}.", f"refiner/block_{i}/")
    joint = [
        row for names, ours in zip(joint_rows.DIFFUSERS, ("image", "text")) for row in stream_rows(names, ours, True)
    ]
    for i in range(module.depth):
        rows += within(stacked(joint, i), f"transformer_blocks.{i}.", "blocks/")
    for i in range(module.singles):
        rows += within(stacked(diffusers_single(), i), f"single_transformer_blocks.{i}.", "single_blocks/")
    return rows


def _build(config: Mapping[str, Any]) -> HunyuanVideo:
    fields = Fields(NAME, config)
    fields.only("mlp_ratio", 4.0)
    fields.only("patch_size", PATCH)
    fields.only("patch_size_t", 1)
    fields.only("qk_norm", "rms_norm")
    fields.only("rope_theta", THETA)
    fields.only("image_condition_type", None)
    channels = fields.take("in_channels", 16, SIZE)
    if (fields.take("out_channels", 16, MAYBE_SIZE) or channels) != channels:
        raise Refusal(f"{NAME}: out_channels is supported as in_channels, {channels}, alone.")
    heads = fields.take("num_attention_heads", 24, SIZE)
    try:
        module = HunyuanVideo(
            channels=channels,
            width=heads * fields.take("attention_head_dim", 128, SIZE),
            depth=fields.take("num_layers", 20, DEPTH),
            singles=fields.take("num_single_layers", 40, DEPTH),
            refiners=fields.take("num_refiner_layers", 2, DEPTH),
            heads=heads,
            text_width=fields.take("text_embed_dim", 4096, SIZE),
            pooled_width=fields.take("pooled_projection_dim", 768, SIZE),
            axes=fields.take("rope_axes_dim", (16, 56, 56), SIZES),
            strength=fields.take("guidance_embeds", True),
        )
    except ValueError as why:
        raise Refusal(f"{NAME}: {why}.") from None
    fields.end()
    return module


def _describe(module: HunyuanVideo) -> dict[str, Any]:
    return {
        "in_channels": module.channels,
        "out_channels": module.channels,
        "num_attention_heads": module.heads,
        "attention_head_dim": module.width // module.heads,
        "num_layers": module.depth,
        "num_single_layers": module.singles,
        "num_refiner_layers": module.refiners,
        "mlp_ratio": 4.0,
        "patch_size": PATCH,
        "patch_size_t": 1,
        "qk_norm": "rms_norm",
        "guidance_embeds": module.strength,
        "text_embed_dim": module.text_width,
        "pooled_projection_dim": module.pooled_width,
        "rope_theta": THETA,
        "rope_axes_dim": list(module.axes),
        "image_condition_type": None,
    }


def _example(module: HunyuanVideo) -> tuple:
    array = lambda *shape: jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    condition = {
        "text": array(1, module.text_width),
        "text_mask": jax.ShapeDtypeStruct((1, 1), jnp.bool_),
        "pooled": array(module.pooled_width),
    }
    return (
        array(1, PATCH, PATCH, module.channels),
        array(),
        condition | ({"strength": array()} if module.strength else {}),
    )


FAMILY = Family(NAME, HunyuanVideo, _build, _describe, _example, {"diffusers": _rows}, published={"HunyuanVideo": {}})
