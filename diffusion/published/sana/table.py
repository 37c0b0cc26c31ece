"""SANA's transformer by the names of diffusers' SanaTransformer2DModel and of the authors' repository."""

__all__ = ["build", "describe", "example", "table"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.interchange.family import DEPTH, MAYBE_NUMBER, MAYBE_SIZE, Family, Fields, Refusal
from diffusion.models.interchange.rows import CONV, DENSE_OUT, POINT, VECTOR, Row, linear, patches, stacked, within
from diffusion.published.sana.network import Sana

NAME = "SanaTransformer2DModel"


def _norms(theirs: str, ours: str) -> list[Row]:
    """The norms of queries and keys; their name has {} for "q" and "k"."""
    parts = ("query", "key")
    return [Row(theirs.format(part[0]) + ".weight", f"{ours}/{part}_norm/scale", VECTOR) for part in parts]


def _mlp(theirs: str) -> list[Row]:
    """The three convolutions; their name has {} for "inverted", "depth" and "point"."""
    return [
        *linear(theirs.format("inverted"), "mlp/widen", POINT),
        *linear(theirs.format("depth"), "mlp/near", CONV),
        *linear(theirs.format("point"), "mlp/project", POINT, bias=False),
    ]


def _diffusers_layer(module: Sana) -> list[Row]:
    rows = [Row("scale_shift_table", "table")]
    for i, part in enumerate("qkv"):
        rows += linear(f"attn1.to_{part}", "attention/qkv", at=(slice(None), i), bias=False)
    rows += linear("attn1.to_out.0", "attention/out", DENSE_OUT)
    for part in ("query", "key", "value"):
        rows += linear(f"attn2.to_{part[0]}", f"cross_attention/{part}")
    rows += linear("attn2.to_out.0", "cross_attention/out", DENSE_OUT) + _mlp("ff.conv_{}")
    if module.qk_norm:
        rows += _norms("attn1.norm_{}", "attention") + _norms("attn2.norm_{}", "cross_attention")
    return rows


def _original_layer(module: Sana) -> list[Row]:
    rows = [Row("scale_shift_table", "table"), *linear("attn.qkv", "attention/qkv", bias=False)]
    rows += linear("attn.proj", "attention/out", DENSE_OUT) + linear("cross_attn.q_linear", "cross_attention/query")
    for i, part in enumerate(("key", "value")):
        both = linear("cross_attn.kv_linear", f"cross_attention/{part}")
        rows += [row._replace(rows=(i * module.width, (i + 1) * module.width)) for row in both]
    rows += linear("cross_attn.proj", "cross_attention/out", DENSE_OUT) + _mlp("mlp.{}_conv.conv")
    if module.qk_norm:
        rows += _norms("attn.{}_norm", "attention") + _norms("cross_attn.{}_norm", "cross_attention")
    return rows


LAYERS = {"diffusers": ("transformer_blocks", _diffusers_layer), "original": ("blocks", _original_layer)}
ENDS = {
    "diffusers": {
        "patch_embed.proj": "patch_embedding",
        "time_embed.linear": "modulation",
        "caption_projection.linear_1": "text_hidden",
        "caption_projection.linear_2": "text_out",
        "proj_out": "final",
    },
    "original": {
        "x_embedder.proj": "patch_embedding",
        "t_block.1": "modulation",
        "y_embedder.y_proj.fc1": "text_hidden",
        "y_embedder.y_proj.fc2": "text_out",
        "final_layer.linear": "final",
    },
}
SINGLE = {
    "diffusers": {"caption_norm.weight": "text_norm/scale", "scale_shift_table": "final_table"},
    "original": {"attention_y_norm.weight": "text_norm/scale", "final_layer.scale_shift_table": "final_table"},
}


def _embeddings(module: Sana, layout: str) -> dict[str, tuple[str, str]]:
    """The names of the two layers of the embeddings of the time and the strength, by ours."""
    if layout == "original":
        names = lambda name: (f"{name}_embedder.mlp.0", f"{name}_embedder.mlp.2")
        return {"timestep_embedding": names("t")} | ({"strength_embedding": names("cfg")} if module.strength else {})
    names = lambda name: (f"time_embed.{name}_embedder.linear_1", f"time_embed.{name}_embedder.linear_2")
    if module.strength:
        return {"timestep_embedding": names("timestep"), "strength_embedding": names("guidance")}
    return {"timestep_embedding": names("emb.timestep")}


def table(module: Sana, layout: str) -> list[Row]:
    """The rows of a network, by the names of a layout, "diffusers" or "original"."""
    rows = [Row(theirs, ours) for theirs, ours in SINGLE[layout].items()]
    for theirs, ours in ENDS[layout].items():
        rows += linear(theirs, ours, patches(module.patch)) if ours == "patch_embedding" else linear(theirs, ours)
    for ours, theirs in _embeddings(module, layout).items():
        rows += linear(theirs[0], f"{ours}/hidden") + linear(theirs[1], f"{ours}/out")
    name, layer = LAYERS[layout]
    for i in range(module.depth):
        rows += within(stacked(layer(module), i), f"{name}.{i}.", "blocks/")
    return rows


def build(config: Mapping[str, Any]) -> Sana:
    """Our module for a config.json of SanaTransformer2DModel."""
    fields = Fields(NAME, config, ("dropout",))
    channels = fields.take("in_channels", 32)
    outputs = fields.take("out_channels", 32, MAYBE_SIZE) or channels
    fields.only("attention_bias", False)
    fields.only("norm_elementwise_affine", False)
    fields.only("norm_eps", 1e-6)
    fields.only("timestep_scale", 1.0)
    size, patch = fields.take("sample_size", 32), fields.take("patch_size", 1)
    scale = fields.take("interpolation_scale", None, MAYBE_NUMBER)
    heads = fields.take("num_attention_heads", 70)
    width = heads * fields.take("attention_head_dim", 32)
    text_heads = fields.take("num_cross_attention_heads", 20)
    text_width = text_heads * fields.take("cross_attention_head_dim", 112)
    for name, value, valid in (
        ("out_channels", outputs, channels),
        ("num_cross_attention_heads x cross_attention_head_dim", text_width, width),
        ("cross_attention_dim", fields.take("cross_attention_dim", 2240), width),
    ):
        if value != valid:
            raise Refusal(f"{NAME}: {name} = {value} is not supported; supported: {valid}.")
    module = Sana(
        side=size,
        channels=channels,
        patch=patch,
        width=width,
        depth=fields.take("num_layers", 20, DEPTH),
        heads=heads,
        text_heads=text_heads,
        text_width=fields.take("caption_channels", 2304),
        mlp_ratio=fields.take("mlp_ratio", 2.5),
        qk_norm=fields.only("qk_norm", None, "rms_norm_across_heads") is not None,
        strength=fields.take("guidance_embeds", False),
        strength_scale=float(fields.take("guidance_embeds_scale", 0.1, schema.number())),
        span=0.0 if scale is None else size // patch / scale,
    )
    fields.end()
    return module


def describe(module: Sana) -> dict[str, Any]:
    """The config.json of one of our modules; the inverse of `build`."""
    scale = module.side // module.patch / module.span if module.span else None
    return {
        "in_channels": module.channels,
        "out_channels": module.channels,
        "num_attention_heads": module.heads,
        "attention_head_dim": module.width // module.heads,
        "num_layers": module.depth,
        "num_cross_attention_heads": module.text_heads,
        "cross_attention_head_dim": module.width // module.text_heads,
        "cross_attention_dim": module.width,
        "caption_channels": module.text_width,
        "mlp_ratio": module.mlp_ratio,
        "attention_bias": False,
        "sample_size": module.side,
        "patch_size": module.patch,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "interpolation_scale": scale,
        "guidance_embeds": module.strength,
        "guidance_embeds_scale": module.strength_scale,
        "qk_norm": "rms_norm_across_heads" if module.qk_norm else None,
    }


def example(module: Sana) -> tuple:
    """Arguments of a small call."""
    array = lambda *shape: jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    condition = {"text": array(1, module.text_width)} | ({"strength": array()} if module.strength else {})
    return array(module.patch, module.patch, module.channels), array(), condition


SMALL = {"num_attention_heads": 36, "num_layers": 28, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72,
         "cross_attention_dim": 1152}  # fmt: skip
NORMED = {"qk_norm": "rms_norm_across_heads"}
FAMILY = Family(
    NAME,
    Sana,
    build,
    describe,
    example,
    {layout: lambda module, layout=layout: table(module, layout) for layout in LAYERS},
    published={
        "SANA 1.6B, 1024 pixels": {},
        "SANA 1.6B, 512 pixels": {"sample_size": 16},
        "SANA 1.6B, 2048 pixels": {"sample_size": 64, "interpolation_scale": 1.0},
        "SANA 1.6B, 4096 pixels": {"sample_size": 128, "interpolation_scale": 2.0},
        "SANA 0.6B, 1024 pixels": SMALL,
        "SANA 0.6B, 512 pixels": SMALL | {"sample_size": 16},
        "SANA 1.5, 1.6B": NORMED,
        "SANA-Sprint, 1.6B": NORMED | {"guidance_embeds": True},
        "SANA-Sprint, 0.6B": SMALL | NORMED | {"guidance_embeds": True},
        "SANA 1.5, 4.8B": NORMED | {"num_layers": 60},
    },
    prefixes=("model.diffusion_model.", ""),
    # Positions are computed; a pipeline computes the embedding of the empty text with Gemma.
    ignored=(r"pos_embed", r"y_embedder\.y_embedding"),
    dropped={r"logvar_linear\.(weight|bias)": "the weights of times in its training"},
)
FAMILIES = {FAMILY.name: FAMILY}
