"""SigLIP: transformers' SiglipVisionModel, also as the image tower of a SiglipModel, and the whole SiglipModel.

A folder of a SiglipModel is opened as its image tower, which most of its users need; both towers by the family's name:
`interchange.load(folder, "SiglipModel")`.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.image_encoders.siglip import PRESETS, SIZES, SigLIP, preset
from diffusion.models.interchange.family import EPSILON, SIZE, Fields, array
from diffusion.models.interchange.field_table import A_TABLE, Field, FieldTable, Follows, part_of
from diffusion.models.interchange.rows import DENSE_OUT, LEADING, Row, cut, layers, linear, mlp, norm, within
from diffusion.models.interchange.transformers_config import STORED, WITHOUT_EFFECT, encoder_sizes, unread
from diffusion.models.interchange.vision_rows import HEADS, attention, patch_rows, sizes
from diffusion.models.text_encoders.siglip_text import SigLIPText, SigLIPTowers


def _pool(width: int) -> list[Row]:
    return [
        Row("probe", "query", LEADING),
        *norm("layernorm", "norm"),
        *cut("attention.in_proj_", HEADS, width),
        *linear("attention.out_proj", "attention/out", DENSE_OUT),
        *mlp("mlp.fc1", "mlp.fc2", "mlp/"),
    ]


def _layers(depth: int) -> list[Row]:
    layer = norm("layer_norm1", "norm_1") + norm("layer_norm2", "norm_2")
    layer += attention("self_attn.{1}_proj", "self_attn.out_proj")
    layer += mlp("mlp.fc1", "mlp.fc2", "mlp/")
    return layers(layer, depth, "encoder.layers.", "encoder/layers/")


def rows(module: SigLIP) -> list[Row]:
    """The image tower by transformers' names (since its version 5.6; earlier ones have the prefix "vision_model.")."""
    return [
        *patch_rows("embeddings.patch_embedding", module.patch),
        Row("embeddings.position_embedding.weight", "positions/table"),
        *_layers(module.depth),
        *norm("post_layernorm", "encoder/norm", module.affine),
        *within(_pool(module.width), "head.", "pool/"),
    ]


def text_rows(module: SigLIPText) -> list[Row]:
    """The text tower by transformers' names."""
    return [
        Row("embeddings.token_embedding.weight", "tokens/embedding"),
        Row("embeddings.position_embedding.weight", "positions"),
        *_layers(module.depth),
        *norm("final_layer_norm", "encoder/norm"),
        *linear("head", "head"),
    ]


CONFIG = FieldTable(
    "SiglipVisionModel",
    SigLIP,
    (
        Follows("num_channels", 3),
        *sizes(),
        Follows("hidden_act", "gelu_pytorch_tanh"),
        Field("layer_norm_eps", "epsilon", 1e-6, EPSILON),
        Follows("vision_use_head", True, silent=True),
    ),
    unread=unread(model_type="siglip_vision_model"),
    required={"affine": True},
)


def _build(config: Mapping[str, Any]) -> SigLIP:
    """The image tower, also out of a whole SiglipModel."""
    if "vision_config" not in config:
        return CONFIG.build(config)
    fields = Fields("SiglipModel", config, (*WITHOUT_EFFECT, "text_config"))
    vision = fields.take("vision_config", None, A_TABLE)
    fields.end()
    return CONFIG.build(vision)


FAMILY = CONFIG.family(
    lambda module: (array(1, module.patch, module.patch, 3),),
    {
        # As for CLIP's towers: every version opens the first, the published one; those since 5.6 write the second.
        "transformers": lambda module: within(rows(module), "vision_model."),
        "transformers 5": rows,
    },
    **STORED,
    ignored=(r"((text|vision)_model\.)?embeddings\.position_ids", r"text_model\..*", "logit_scale", "logit_bias"),
    published={name: CONFIG.describe(preset(name)) for name in PRESETS},
    also={"SiglipModel": {}},
)._replace(build=_build)


TEXT_CONFIG = FieldTable(
    "SiglipModel's text_config",
    SigLIPText,
    (
        Field("vocab_size", "vocabulary", 32000),
        *encoder_sizes(),
        Field(
            "projection_size", "features", None, schema.optional(SIZE), read=lambda size, ours: size or ours["width"]
        ),
        Field("max_position_embeddings", "positions", 64),
        Follows("hidden_act", "gelu_pytorch_tanh"),
        Field("layer_norm_eps", "epsilon", 1e-6, EPSILON),
    ),
    unread=unread("eos_token_id", model_type="siglip_text_model"),
)
TOWERS_CONFIG = FieldTable(
    "SiglipModel",
    SigLIPTowers,
    (part_of("text_config", "text", TEXT_CONFIG), part_of("vision_config", "vision", CONFIG)),
    unread=unread(model_type="siglip"),
)


def _published(name: str) -> dict[str, Any]:
    """Both towers of SigLIP 2. The text tower has the size of the image tower; g-opt's has the size of So400m."""
    vision = preset(name)
    size = name.split("/")[0]
    text = SIZES["So400m" if size == "g-opt" else size]
    return TOWERS_CONFIG.describe(SigLIPTowers(SigLIPText(256_000, features=vision.width, **text), vision))


TOWERS = TOWERS_CONFIG.family(
    lambda module: (
        array(1, module.text.positions, dtype=jnp.int32),
        array(1, module.vision.patch, module.vision.patch, 3),
    ),
    {
        "transformers": lambda module: [
            *within(text_rows(module.text), "text_model.", "text/"),
            *within(rows(module.vision), "vision_model.", "vision/"),
            Row("logit_scale", "logit_scale", LEADING),
            Row("logit_bias", "logit_bias", LEADING),
        ]
    },
    **STORED,
    ignored=(r"(text|vision)_model\.embeddings\.position_ids",),
    published={name: _published(name) for name in PRESETS},
)
FAMILIES = (FAMILY, TOWERS)
