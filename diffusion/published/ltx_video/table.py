"""LTX-Video's transformer: diffusers' LTXVideoTransformer3DModel, and the names of its authors' files."""

__all__ = []

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZE, Family, Fields, Refusal
from diffusion.models.interchange.rows import DENSE_OUT, VECTOR, Row, linear, stacked, within
from diffusion.published.ltx_video.network import LTXVideo

NAME = "LTXVideoTransformer3DModel"
ORIGINAL = {
    "proj_in.": "patchify_proj.",
    "time_embed.": "adaln_single.",
    ".norm_q.": ".q_norm.",
    ".norm_k.": ".k_norm.",
}


def _attention(theirs: str, ours: str) -> list[Row]:
    return [
        *(row for name in ("query", "key", "value") for row in linear(f"{theirs}.to_{name[0]}", f"{ours}/{name}")),
        *linear(f"{theirs}.to_out.0", f"{ours}/out", DENSE_OUT),
        Row(f"{theirs}.norm_q.weight", f"{ours}/query_norm/scale", VECTOR),
        Row(f"{theirs}.norm_k.weight", f"{ours}/key_norm/scale", VECTOR),
    ]


LAYER = [
    Row("scale_shift_table", "table"),
    *_attention("attn1", "attention"),
    *_attention("attn2", "cross_attention"),
    *linear("ff.net.0.proj", "mlp/hidden"),
    *linear("ff.net.2", "mlp/out"),
]


def _rows(module: LTXVideo) -> list[Row]:
    table = [
        *linear("proj_in", "patch_embedding"),
        *linear("time_embed.emb.timestep_embedder.linear_1", "timestep_embedding/hidden"),
        *linear("time_embed.emb.timestep_embedder.linear_2", "timestep_embedding/out"),
        *linear("time_embed.linear", "modulation"),
        *linear("caption_projection.linear_1", "text_hidden"),
        *linear("caption_projection.linear_2", "text_out"),
        Row("scale_shift_table", "final_table"),
        *linear("proj_out", "final"),
    ]
    for layer in range(module.depth):
        table += within(stacked(LAYER, layer), f"transformer_blocks.{layer}.", "blocks/")
    return table


def _original_rows(module: LTXVideo) -> list[Row]:
    def renamed(name: str) -> str:
        for theirs, original in ORIGINAL.items():
            name = name.replace(theirs, original)
        return name

    return [row._replace(theirs=renamed(row.theirs)) for row in _rows(module)]


def _build(config: Mapping[str, Any]) -> LTXVideo:
    fields = Fields(NAME, config)
    fields.only("patch_size", 1)
    fields.only("patch_size_t", 1)
    fields.only("activation_fn", "gelu-approximate")
    fields.only("qk_norm", "rms_norm_across_heads")
    fields.only("norm_elementwise_affine", False)
    fields.only("norm_eps", 1e-6)
    fields.only("attention_bias", True)
    fields.only("attention_out_bias", True)
    channels = fields.take("in_channels", 128, SIZE)
    if (fields.take("out_channels", 128, MAYBE_SIZE) or channels) != channels:
        raise Refusal(f"{NAME}: out_channels is supported as in_channels, {channels}, alone.")
    heads = fields.take("num_attention_heads", 32, SIZE)
    width = heads * fields.take("attention_head_dim", 64, SIZE)
    if fields.take("cross_attention_dim", 2048) != width:
        raise Refusal(f"{NAME}: cross_attention_dim is supported as the width, {width}, alone.")
    module = LTXVideo(
        channels=channels,
        width=width,
        depth=fields.take("num_layers", 28, DEPTH),
        heads=heads,
        text_width=fields.take("caption_channels", 4096, SIZE),
    )
    fields.end()
    return module


def _describe(module: LTXVideo) -> dict[str, Any]:
    return {
        "in_channels": module.channels,
        "out_channels": module.channels,
        "patch_size": 1,
        "patch_size_t": 1,
        "num_attention_heads": module.heads,
        "attention_head_dim": module.width // module.heads,
        "cross_attention_dim": module.width,
        "num_layers": module.depth,
        "activation_fn": "gelu-approximate",
        "qk_norm": "rms_norm_across_heads",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "caption_channels": module.text_width,
        "attention_bias": True,
        "attention_out_bias": True,
    }


def _example(module: LTXVideo) -> tuple:
    array = lambda *shape: jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return array(1, 1, 1, module.channels), array(), {"text": array(1, module.text_width)}


FAMILY = Family(
    NAME,
    LTXVideo,
    _build,
    _describe,
    _example,
    {"diffusers": _rows, "original": _original_rows},
    published={
        "LTX-Video, 2 B": {},
        "LTX-Video 0.9.7, 13 B": {
            "num_attention_heads": 32,
            "attention_head_dim": 128,
            "cross_attention_dim": 4096,
            "num_layers": 48,
        },
    },
    prefixes=("model.diffusion_model.", ""),
)
FAMILIES = {FAMILY.name: FAMILY}
