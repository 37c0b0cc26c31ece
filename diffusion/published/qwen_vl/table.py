"""Qwen 2.5 VL by the names of transformers: the image tower, and the tower with the language model.

A folder of a Qwen2_5_VLForConditionalGeneration is opened as its language model, "Qwen2Model", which most of its users
need; both by the name of the family: `interchange.load(folder, "Qwen2_5_VLModel")`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.interchange import decoder_tables
from diffusion.models.interchange.family import DEPTH, Family, Fields, array
from diffusion.models.interchange.field_table import A_TABLE, Field, FieldTable, Follows
from diffusion.models.interchange.rows import DENSE_OUT, Layout, Row, cut, layers, linear, mlp, side_by_side, within
from diffusion.models.interchange.transformers_config import STORED, unread
from diffusion.models.interchange.vision_rows import HEADS
from diffusion.published.qwen_vl.network import FRAMES, QwenVision, QwenVL

TEXT = "Qwen2Model"
BEFORE = {  # {layout: the prefixes of the tower's names and of the language model's}
    "transformers": ("visual.", "model."),
    "transformers 5": ("model.visual.", "model.language_model."),
    "of a model without head": ("visual.", "language_model."),
}
TEXT_DEFAULTS = {  # of Qwen2_5_VLTextConfig, where they differ from those of Qwen 2
    "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
    "max_window_layers": 80,
}  # fmt: skip
SECTIONS = schema.several(schema.integer(0), 3, 3)


def _patches(side: int) -> Layout:
    """Theirs a strided convolution of clips [out, 3, 2, p, p], ours [2, p p 3, out]."""
    return Layout(
        lambda a, shape: a.transpose(2, 3, 4, 1, 0).reshape(shape),
        lambda a: a.reshape(FRAMES, side, side, 3, -1).transpose(4, 3, 0, 1, 2),
    )


def vision_rows(module: QwenVision) -> list[Row]:
    """The tower by transformers' names."""
    layer = [Row(f"norm{i}.weight", f"norm_{i}/scale") for i in (1, 2)]
    layer += cut("attn.qkv.", HEADS, module.width) + linear("attn.proj", "attention/out", DENSE_OUT)
    layer += side_by_side(("mlp.gate_proj", "mlp.up_proj"), "mlp/hidden") + linear("mlp.down_proj", "mlp/out")
    return [
        Row("patch_embed.proj.weight", "patches/kernel", _patches(module.patch)),
        *layers(layer, module.depth, "blocks.", "layers/"),
        Row("merger.ln_q.weight", "norm/scale"),
        *mlp("merger.mlp.0", "merger.mlp.2", ""),
    ]


def rows(module: QwenVL, before: tuple[str, str]) -> list[Row]:
    """Tower and language model; `before` holds the prefixes of their names."""
    vision, text = before
    return [
        *within(vision_rows(module.vision), vision, "vision/"),
        *within(decoder_tables.rows(module.text, ""), text, "text/"),
    ]


VISION_CONFIG = FieldTable(
    "Qwen2_5_VisionTransformerPretrainedModel",
    QwenVision,
    (
        Field("depth", "depth", 32, DEPTH),
        Field("hidden_size", "width", 3584),
        Field("intermediate_size", "hidden", 3420),
        Field("num_heads", "heads", 16),
        Field("out_hidden_size", "features", 3584),
        Field("patch_size", "patch", 14),
        Field("spatial_merge_size", "merge", 2),
        Field("window_size", "window", 112),
        Field("fullatt_block_indexes", "full_attention", (7, 15, 23, 31), schema.several(schema.integer(0), 0, 512)),
        Follows("temporal_patch_size", FRAMES),
        Follows("in_channels", 3),
        Follows("in_chans", 3, silent=True),
        Follows("spatial_patch_size", lambda module: module.patch, silent=True),
        Follows("hidden_act", "silu"),
    ),
    unread=unread("tokens_per_second", "rope_parameters", model_type="qwen2_5_vl_vision"),
)
VISION = VISION_CONFIG.family(
    lambda module: (array(1, module.side, module.side, 3),), {"transformers": vision_rows}, **STORED
)


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the language model; published configs have them beside the fields of the whole model."""
    nested = config.get("text_config")
    return TEXT_DEFAULTS | dict(nested if isinstance(nested, Mapping) else config)


def build(config: Mapping[str, Any]) -> QwenVL:
    """Our module for the config of the whole model."""
    outer = Fields("Qwen2_5_VLModel", config, tuple(config))
    text = _text_config(config)
    turns = text.get("rope_parameters") or text.get("rope_scaling")
    stated = Fields("Qwen2_5_VLModel", turns if isinstance(turns, Mapping) else {})
    return QwenVL(
        VISION_CONFIG.build(outer.take("vision_config", {}, A_TABLE)),
        decoder_tables.build(TEXT, text),
        outer.take("image_token_id", 151655, schema.integer(0)),
        stated.take("mrope_section", (16, 24, 24), SECTIONS),
    )


def describe(module: QwenVL) -> dict[str, Any]:
    """Their config for our module."""
    turns = {"type": "mrope", "mrope_section": list(module.sections)}
    text = decoder_tables.describe(TEXT, module.text) | {"model_type": "qwen2_5_vl_text", "rope_scaling": turns}
    return {
        "model_type": "qwen2_5_vl",
        "text_config": text,
        "vision_config": VISION_CONFIG.describe(module.vision),
        "image_token_id": module.placeholder,
    }


WHOLE = Family(
    name="Qwen2_5_VLModel",
    module=QwenVL,
    build=build,
    describe=describe,
    example=lambda module: (array(1, 8, dtype=jnp.int32),),
    tables={layout: functools.partial(rows, before=before) for layout, before in BEFORE.items()},
    **STORED,
    ignored=(r"(language_model\.)?lm_head\.weight", r".*rotary_(pos_)?emb\.inv_freq"),
)
FAMILIES = {family.name: family for family in (VISION, WHOLE)}
