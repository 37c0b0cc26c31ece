"""The table of HiDream-I1's transformer; diffusers' HiDreamImageTransformer2DModel and the authors share its names."""

from collections.abc import Mapping
from typing import Any

from diffusion.io import schema
from diffusion.models.interchange.family import DEPTH, SIZE, SIZES, prompted
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group, width_of_heads, without_default
from diffusion.models.interchange.joint_rows import projection_rows
from diffusion.models.interchange.rows import (
    DENSE,
    VECTOR,
    Row,
    cut,
    layers,
    linear,
    query_key_norms,
    side_by_side,
    stacked,
    two_linear,
    within,
)
from diffusion.published.hidream.network import LLAMA_LAYERS, HiDream

NAME = "HiDreamImageTransformer2DModel"
LAYERS_VALID = schema.several(schema.integer(0, 512), 1, 1024)  # the valid values of llama_layers


def _mlp(theirs: str, ours: str) -> list[Row]:
    """The rows of a gated MLP."""
    rows = side_by_side(("w1", "w3"), "hidden", bias=False) + linear("w2", "out", bias=False)
    return within(rows, f"{theirs}.", f"{ours}/")


def _experts(module: HiDream, theirs: str, ours: str) -> list[Row]:
    rows = [Row("gate.weight", "router/kernel", DENSE), *_mlp("shared_experts", "shared")]
    for i in range(module.experts):
        rows += stacked(_mlp(f"experts.{i}", "experts/mlp"), i)
    return within(rows, f"{theirs}.", f"{ours}/")


def _attention(end: str, ours: str) -> list[Row]:
    """The rows of a stream's attention; `end` is the end of the names in the file."""
    parts = tuple(f"attn1.to_{name}{end}" for name in ("q", "k", "v", "out"))
    norms = query_key_norms(f"attn1.{{1}}_rms_norm{end}.weight", ours, VECTOR)
    return projection_rows(parts, (), f"{ours}/attention") + norms


def table(module: HiDream) -> list[Row]:
    """The rows of a network."""
    joint = [
        *cut("adaLN_modulation.1.", ("image/modulation/dense", "text/modulation/dense"), 6 * module.width),
        *_attention("", "image"),
        *_attention("_t", "text"),
        *_experts(module, "ff_i", "image/mlp"),
        *_mlp("ff_t", "text/mlp"),
    ]
    single = [
        *linear("adaLN_modulation.1", "tokens/modulation/dense"),
        *_attention("", "tokens"),
        *_experts(module, "ff_i", "tokens/mlp"),
    ]
    number = len(module.llama_layers)
    texts = linear("linear", "llama_embeddings", bias=False)
    return [
        *linear("x_embedder.proj", "patch_embedding"),
        *two_linear("t_embedder.timestep_embedder", "conditioning/time/"),
        *two_linear("p_embedder.pooled_embedder", "conditioning/pooled/"),
        *layers(texts, number, "caption_projection.", ""),
        *linear(f"caption_projection.{number}.linear", "t5_embedding", bias=False),
        *layers(within(joint, "block."), module.depth, "double_stream_blocks.", "blocks/"),
        *layers(within(single, "block."), module.singles, "single_stream_blocks.", "single_blocks/"),
        *linear("final_layer.adaLN_modulation.1", "final_modulation/dense"),
        *linear("final_layer.linear", "final"),
    ]


def _text_widths(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    (widths,) = values.values()
    if widths is None:
        raise ValueError("the config has no caption_channels.")
    return dict(zip(("t5_width", "llama_width"), widths))


CONFIG = FieldTable(
    NAME,
    HiDream,
    (
        without_default("patch_size", "patch", SIZE),
        Field("in_channels", "channels", 64),
        Follows("out_channels", lambda module: module.channels, optional=True),
        Field("num_layers", "depth", 16, DEPTH),
        Field("num_single_layers", "singles", 32, DEPTH),
        *width_of_heads(20, 128),
        Group(
            {"caption_channels": (None, schema.optional(schema.several(SIZE, 2, 2)))},
            _text_widths,
            write=lambda module: {"caption_channels": (module.t5_width, module.llama_width)},
        ),
        Field("text_emb_dim", "pooled_width", 2048),
        Field("num_routed_experts", "experts", 4),
        Field("num_activated_experts", "active", 2),
        Field("axes_dims_rope", "axes", (32, 32), SIZES),
        Field("max_resolution", "largest", (128, 128), schema.several(SIZE, 2, 2)),
        without_default("llama_layers", "llama_layers", LAYERS_VALID),
    ),
    unread={"force_inference_output": None},
)

FAMILY = CONFIG.family(
    prompted(),
    {"diffusers": table},
    published={
        "HiDream-I1": {
            "patch_size": 2,
            "in_channels": 16,
            "caption_channels": [4096, 4096],
            "axes_dims_rope": [64, 32, 32],
            "llama_layers": list(LLAMA_LAYERS),
        }
    },
    prefixes=("model.diffusion_model.", ""),
)
FAMILIES = {FAMILY.name: FAMILY}
