"""PixArt-alpha and PixArt-Sigma: diffusers' PixArtTransformer2DModel, and the names of the authors' repositories.

Our few-step students that receive the scale of the guidance have Flux's field guidance_embeds, which diffusers' PixArt
lacks.

A file of theirs does not record the size of its training pictures, and the positions of its patches depend on it
only at 256 pixels (interpolation_scale): a single file without a config counts as one of 512 pixels or more.
"""

__all__ = ["LAYER"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.interchange.family import DEPTH, MAYBE_NUMBER, MAYBE_SIZE, Family, Fields, Refusal
from diffusion.models.interchange.rows import DENSE_OUT, Row, linear, patches, stacked, within
from diffusion.published.pixart.network import PixArt

LAYER = [
    Row("scale_shift_table", "table"),
    *(row for i, name in enumerate("qkv") for row in linear(f"attn1.to_{name}", "attention/qkv", at=(slice(None), i))),
    *linear("attn1.to_out.0", "attention/out", DENSE_OUT),
    *(row for name in ("query", "key", "value") for row in linear(f"attn2.to_{name[0]}", f"cross_attention/{name}")),
    *linear("attn2.to_out.0", "cross_attention/out", DENSE_OUT),
    *linear("ff.net.0.proj", "mlp/hidden"),
    *linear("ff.net.2", "mlp/out"),
]
"""The rows of a layer, by diffusers' names."""


def _embedding(theirs: tuple[str, ...], ours: str) -> list[Row]:
    return [*linear(theirs[0], f"{ours}/hidden"), *linear(theirs[1], f"{ours}/out")]


def _diffusers_rows(module: PixArt) -> list[Row]:
    embedder = lambda name: tuple(f"adaln_single.emb.{name}.linear_{i}" for i in (1, 2))
    table = [
        *linear("pos_embed.proj", "patch_embedding", patches(module.patch)),
        *_embedding(embedder("timestep_embedder"), "timestep_embedding"),
        *linear("adaln_single.linear", "modulation"),
        *linear("caption_projection.linear_1", "text_hidden"),
        *linear("caption_projection.linear_2", "text_out"),
        Row("scale_shift_table", "final_table"),
        *linear("proj_out", "final"),
    ]
    if module.strength:
        table += _embedding(embedder("guidance_embedder"), "strength_embedding")
    if module.sized:
        table += _embedding(embedder("resolution_embedder"), "original_embedding")
        table += _embedding(embedder("aspect_ratio_embedder"), "ratio_embedding")
    for layer in range(module.depth):
        table += within(stacked(LAYER, layer), f"transformer_blocks.{layer}.", "blocks/")
    return table


def _original_rows(module: PixArt) -> list[Row]:
    embedder = lambda name: (f"{name}.mlp.0", f"{name}.mlp.2")
    table = [
        *linear("x_embedder.proj", "patch_embedding", patches(module.patch)),
        *_embedding(embedder("t_embedder"), "timestep_embedding"),
        *linear("t_block.1", "modulation"),
        *linear("y_embedder.y_proj.fc1", "text_hidden"),
        *linear("y_embedder.y_proj.fc2", "text_out"),
        Row("final_layer.scale_shift_table", "final_table"),
        *linear("final_layer.linear", "final"),
    ]
    if module.sized:
        table += _embedding(embedder("csize_embedder"), "original_embedding")
        table += _embedding(embedder("ar_embedder"), "ratio_embedding")
    keys = (0, module.width)
    values = (module.width, 2 * module.width)
    for layer in range(module.depth):
        before = f"blocks.{layer}"
        table += stacked(
            [
                Row(f"{before}.scale_shift_table", "blocks/table"),
                *linear(f"{before}.attn.qkv", "blocks/attention/qkv"),
                *linear(f"{before}.attn.proj", "blocks/attention/out", DENSE_OUT),
                *linear(f"{before}.cross_attn.q_linear", "blocks/cross_attention/query"),
                *(
                    row._replace(rows=part)
                    for name, part in (("key", keys), ("value", values))
                    for row in linear(f"{before}.cross_attn.kv_linear", f"blocks/cross_attention/{name}")
                ),
                *linear(f"{before}.cross_attn.proj", "blocks/cross_attention/out", DENSE_OUT),
                *linear(f"{before}.mlp.fc1", "blocks/mlp/hidden"),
                *linear(f"{before}.mlp.fc2", "blocks/mlp/out"),
            ],
            layer,
        )
    return table


def _build(config: Mapping[str, Any]) -> PixArt:
    fields = Fields(
        "PixArtTransformer2DModel", config, ("dropout", "norm_num_groups", "num_embeds_ada_norm", "upcast_attention")
    )
    heads, channels, size = (
        fields.take(*field) for field in (("num_attention_heads", 16), ("in_channels", 4), ("sample_size", 128))
    )
    width = heads * fields.take("attention_head_dim", 72)
    patch = fields.take("patch_size", 2)
    fields.only("activation_fn", "gelu-approximate")
    fields.only("norm_type", "ada_norm_single")
    fields.only("norm_elementwise_affine", False)
    fields.only("norm_eps", 1e-6)
    fields.only("attention_bias", True)
    fields.only("attention_type", "default")
    if fields.take("cross_attention_dim", 1152) != width:
        raise Refusal(
            f"PixArtTransformer2DModel: cross_attention_dim = {config.get('cross_attention_dim')} is not "
            f"supported; supported: the width, {width}."
        )
    text_width = fields.take("caption_channels", None, MAYBE_SIZE)
    sized = fields.take("use_additional_conditions", None, schema.optional(schema.FLAG))
    if text_width is None:
        raise Refusal("PixArtTransformer2DModel: caption_channels = None is not supported; it is the text's width.")
    scale = fields.take("interpolation_scale", None, MAYBE_NUMBER)
    module = PixArt(
        shape=(size, size, channels),
        patch=patch,
        width=width,
        depth=fields.take("num_layers", 28, DEPTH),
        heads=heads,
        text_width=text_width,
        learn_sigma=fields.only("out_channels", 2 * channels, channels, None) == 2 * channels,
        sized=size == 128 if sized is None else sized,
        strength=fields.take("guidance_embeds", False),
        span=size // patch / (max(size // 64, 1) if scale is None else scale),
    )
    fields.end()
    return module


def _describe(module: PixArt) -> dict[str, Any]:
    size, other, channels = module.shape
    if size != other:
        raise Refusal(
            f"PixArtTransformer2DModel: shape = {module.shape} cannot be written to it; it is made for squares."
        )
    if module.mlp_ratio != 4:
        raise Refusal(f"PixArtTransformer2DModel: mlp_ratio = {module.mlp_ratio} cannot be written to it; only 4 can.")
    scale = size // module.patch / module.span
    return {
        "num_attention_heads": module.heads,
        "attention_head_dim": module.width // module.heads,
        "in_channels": channels,
        "out_channels": channels * (2 if module.learn_sigma else 1),
        "num_layers": module.depth,
        "cross_attention_dim": module.width,
        "sample_size": size,
        "patch_size": module.patch,
        "interpolation_scale": int(scale) if scale == int(scale) else scale,
        "use_additional_conditions": module.sized,
        "caption_channels": module.text_width,
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "attention_bias": True,
        "num_embeds_ada_norm": 1000,
        **({"guidance_embeds": True} if module.strength else {}),
    }


def _example(module: PixArt) -> tuple:
    struct = lambda *shape: jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    condition = {"text": struct(1, module.text_width)} | ({"size": struct(6)} if module.sized else {})
    condition |= {"strength": struct()} if module.strength else {}
    return struct(module.patch, module.patch, module.shape[-1]), struct(), condition


def _published(size: int, scale: float, sized: bool) -> dict[str, Any]:
    return {
        "sample_size": size,
        "interpolation_scale": scale,
        "use_additional_conditions": sized,
        "caption_channels": 4096,
        "out_channels": 8,
    }


FAMILY = Family(
    "PixArtTransformer2DModel",
    PixArt,
    _build,
    _describe,
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
