"""SigLIP: transformers' SiglipVisionModel, also out of a whole SiglipModel, and that whole.

A folder of a SiglipModel is opened as its image tower, which most of its users need; both towers by the family's name:
`interchange.load(folder, "SiglipModel")`.
"""

__all__ = ["rows", "text_rows"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.image_encoders.siglip import PRESETS, SIZES, SigLIP, preset
from diffusion.models.interchange.family import DEPTH, SIZE, Family, Fields
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, VECTOR, Row, linear, within
from diffusion.models.interchange.transformers_config import WITHOUT_EFFECT
from diffusion.models.interchange.vision_rows import (
    LEADING,
    as_published,
    attention,
    described_sizes,
    layers,
    norm,
    patch_rows,
    sizes,
)
from diffusion.models.text_encoders.siglip_text import SigLIPText, SigLIPTowers

TABLE = schema.Valid("a table of fields", lambda value: isinstance(value, Mapping))


def _pool(width: int) -> list[Row]:
    table = [Row("probe", "query", LEADING), *norm("layernorm", "norm")]
    for i, ours in enumerate(("query", "key", "value")):
        rows = (i * width, (i + 1) * width)
        table += [
            Row("attention.in_proj_weight", f"attention/{ours}/kernel", DENSE, rows=rows),
            Row("attention.in_proj_bias", f"attention/{ours}/bias", VECTOR, rows=rows),
        ]
    table += linear("attention.out_proj", "attention/out", DENSE_OUT)
    return table + linear("mlp.fc1", "mlp/hidden") + linear("mlp.fc2", "mlp/out")


def _layers(depth: int) -> list[Row]:
    layer = norm("layer_norm1", "norm_1") + norm("layer_norm2", "norm_2")
    layer += attention("self_attn.{1}_proj", "self_attn.out_proj")
    layer += linear("mlp.fc1", "mlp/hidden") + linear("mlp.fc2", "mlp/out")
    return layers(layer, depth, "encoder.layers.")


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


def _build(config: Mapping[str, Any]) -> SigLIP:
    if "vision_config" in config:  # of a whole SiglipModel
        both_towers = Fields("SiglipModel", config, (*WITHOUT_EFFECT, "text_config"))
        config = both_towers.take("vision_config", None, TABLE)
        both_towers.end()
    fields = Fields("SiglipVisionModel", config, WITHOUT_EFFECT)
    fields.only("num_channels", 3)
    fields.only("hidden_act", "gelu_pytorch_tanh")
    fields.only("vision_use_head", True)
    module = SigLIP(**sizes(fields), epsilon=fields.take("layer_norm_eps", 1e-6))
    fields.end()
    return module


def _describe(module: SigLIP) -> dict[str, Any]:
    as_published("SiglipVisionModel", module)
    return {
        "model_type": "siglip_vision_model",
        "num_channels": 3,
        **described_sizes(module),
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": module.epsilon,
    }


FAMILY = Family(
    name="SiglipVisionModel",
    module=SigLIP,
    build=_build,
    describe=_describe,
    example=lambda module: (jax.ShapeDtypeStruct((1, module.patch, module.patch, 3), jnp.float32),),
    tables={
        # As for CLIP's towers: every version opens the first, the published one; those since 5.6 write the second.
        "transformers": lambda module: within(rows(module), "vision_model."),
        "transformers 5": rows,
    },
    stem="model",
    library="transformers",
    ignored=(r"((text|vision)_model\.)?embeddings\.position_ids", r"text_model\..*", "logit_scale", "logit_bias"),
    published={name: _describe(preset(name)) for name in PRESETS},
    also={"SiglipModel": {}},
)


def _build_text(config: Mapping[str, Any]) -> SigLIPText:
    fields = Fields("SiglipModel's text_config", config, (*WITHOUT_EFFECT, "eos_token_id"))
    fields.only("hidden_act", "gelu_pytorch_tanh")
    width = fields.take("hidden_size", 768)
    module = SigLIPText(
        vocabulary=fields.take("vocab_size", 32000),
        width=width,
        depth=fields.take("num_hidden_layers", 12, DEPTH),
        heads=fields.take("num_attention_heads", 12),
        hidden=fields.take("intermediate_size", 3072),
        features=fields.take("projection_size", None, schema.optional(SIZE)) or width,
        positions=fields.take("max_position_embeddings", 64),
        epsilon=fields.take("layer_norm_eps", 1e-6),
    )
    fields.end()
    return module


def _build_towers(config: Mapping[str, Any]) -> SigLIPTowers:
    fields = Fields("SiglipModel", config, (*WITHOUT_EFFECT, "vision_config"))
    module = SigLIPTowers(
        text=_build_text(fields.take("text_config", {}, TABLE)), vision=_build({"vision_config": {}, **config})
    )
    fields.end()
    return module


def _describe_towers(module: SigLIPTowers) -> dict[str, Any]:
    text = module.text
    return {
        "model_type": "siglip",
        "text_config": {
            "model_type": "siglip_text_model",
            "vocab_size": text.vocabulary,
            "hidden_size": text.width,
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.heads,
            "intermediate_size": text.hidden,
            "projection_size": text.features,
            "max_position_embeddings": text.positions,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": text.epsilon,
        },
        "vision_config": _describe(module.vision),
    }


def _published(name: str) -> dict[str, Any]:
    """Both towers of SigLIP 2. The text tower has the size of the image tower; g-opt's has the size of So400m."""
    vision = preset(name)
    size = name.split("/")[0]
    text = SIZES["So400m" if size == "g-opt" else size]
    return _describe_towers(SigLIPTowers(SigLIPText(256_000, features=vision.width, **text), vision))


TOWERS = Family(
    name="SiglipModel",
    module=SigLIPTowers,
    build=_build_towers,
    describe=_describe_towers,
    example=lambda module: (
        jax.ShapeDtypeStruct((1, module.text.positions), jnp.int32),
        jax.ShapeDtypeStruct((1, module.vision.patch, module.vision.patch, 3), jnp.float32),
    ),
    tables={
        "transformers": lambda module: [
            *within(text_rows(module.text), "text_model.", "text/"),
            *within(rows(module.vision), "vision_model.", "vision/"),
            Row("logit_scale", "logit_scale", LEADING),
            Row("logit_bias", "logit_bias", LEADING),
        ]
    },
    stem="model",
    library="transformers",
    ignored=(r"(text|vision)_model\.embeddings\.position_ids",),
    published={name: _published(name) for name in PRESETS},
)
FAMILIES = (FAMILY, TOWERS)
