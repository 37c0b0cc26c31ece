"""Flux's transformer by the names of diffusers' FluxTransformer2DModel and of Black Forest Labs' single files."""

__all__ = ["build", "describe", "described", "diffusers_single", "example", "sizes", "table"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange import joint_rows
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, SIZES, Family, Fields, Refusal
from diffusion.models.interchange.joint_rows import StreamNames, shift_and_scale, stream_rows
from diffusion.models.interchange.rows import DENSE_OUT, Layout, Row, linear, stacked, within
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
JOINT = {  # by layout: of a joint layer the picture's stream and the text's
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
    for part, name in enumerate(("attn.to_q", "attn.to_k", "attn.to_v")):
        rows += linear(name, "attention/qkv", at=(slice(None), part))
    rows += linear("proj_mlp", "attention/qkv", at=(slice(None), slice(3, 7)))
    rows += [
        Row("attn.norm_q.weight", "attention/query_norm/scale"),
        Row("attn.norm_k.weight", "attention/key_norm/scale"),
    ]
    return rows + linear("proj_out", "attention/out", DENSE_OUT)


def _original_single() -> list[Row]:
    return [
        *linear("modulation.lin", "modulation/dense"),
        *linear("linear1", "attention/qkv"),
        Row("norm.query_norm.scale", "attention/query_norm/scale"),
        Row("norm.key_norm.scale", "attention/key_norm/scale"),
        *linear("linear2", "attention/out", DENSE_OUT),
    ]


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
        Row(f"{final}.weight", "final/kernel", PACKED_OUT),
        Row(f"{final}.bias", "final/bias", PACKED_BIAS),
    ]
    for ours, theirs in ENDS.items():
        if module.strength or not ours.startswith("strength"):
            rows += linear(theirs[0 if diffusers else 1], f"conditioning/{ours}")
    joint = [row for names, ours in zip(JOINT[layout], ("image", "text")) for row in stream_rows(names, ours, True)]
    for i in range(module.depth):
        rows += within(stacked(joint, i), f"{joints}.{i}.", "blocks/")
    single = diffusers_single() if diffusers else _original_single()
    for i in range(module.singles):
        rows += within(stacked(single, i), f"{singles}.{i}.", "single_blocks/")
    return rows


def sizes(fields: Fields) -> dict[str, Any]:
    """Our fields that a config of Flux's kind has for each of its networks."""
    fields.only("patch_size", 1)  # of packed tokens; the packing is by 2 x 2
    heads = fields.take("num_attention_heads", 24)
    inputs = fields.take("in_channels", 64)
    return {
        "channels": inputs // PATCH**2,
        "out_channels": (fields.take("out_channels", None, MAYBE_SIZE) or inputs) // PATCH**2,
        "width": heads * fields.take("attention_head_dim", 128),
        "depth": fields.take("num_layers", 19, DEPTH),
        "singles": fields.take("num_single_layers", 38, DEPTH),
        "heads": heads,
        "text_width": fields.take("joint_attention_dim", 4096),
        "axes": fields.take("axes_dims_rope", (16, 56, 56), SIZES),
    }


def build(config: Mapping[str, Any]) -> Flux:
    """Our module for a config.json of FluxTransformer2DModel."""
    fields = Fields(NAME, config)
    module = Flux(
        **sizes(fields),
        pooled_width=fields.take("pooled_projection_dim", 768),
        strength=fields.take("guidance_embeds", False),
    )
    fields.end()
    return module


def described(module: Flux) -> dict[str, Any]:
    """The fields of `sizes` in a config; its inverse."""
    inputs = PATCH**2 * module.channels
    outputs = PATCH**2 * module.out_channels
    return {
        "patch_size": 1,
        "in_channels": inputs,
        "out_channels": None if outputs == inputs else outputs,
        "num_layers": module.depth,
        "num_single_layers": module.singles,
        "attention_head_dim": module.width // module.heads,
        "num_attention_heads": module.heads,
        "joint_attention_dim": module.text_width,
        "axes_dims_rope": list(module.axes),
    }


def describe(module: Flux) -> dict[str, Any]:
    """The config.json of one of our modules.

    Raises:
        Refusal: for a Chroma.
    """
    if module.approximator:
        raise Refusal(f"{NAME}: each of its layers makes its own vectors, and this network has an approximator.")
    return described(module) | {"pooled_projection_dim": module.pooled_width, "guidance_embeds": module.strength}


def example(module: Flux) -> tuple:
    """Arguments of a small call."""
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    condition = {"text": array(1, 1, module.text_width), "pooled": array(1, module.pooled_width)}
    if module.strength:
        condition["strength"] = array(1)
    return array(1, PATCH, PATCH, module.channels), array(1), condition


FAMILY = Family(
    NAME,
    Flux,
    build,
    describe,
    example,
    {layout: lambda module, layout=layout: table(module, layout) for layout in JOINT},
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
