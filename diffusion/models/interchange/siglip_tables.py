"""SigLIP 2's image tower: transformers' SiglipVisionModel, also out of a whole SiglipModel."""

__all__ = ["rows"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.image_encoders.siglip import PRESETS, SigLIP, preset
from diffusion.models.interchange.family import Family, Fields
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, VECTOR, Row, linear, within
from diffusion.models.interchange.transformers_config import WITHOUT_EFFECT
from diffusion.models.interchange.vision_rows import (
    LEADING,
    attention,
    described_sizes,
    layers,
    norm,
    patch_rows,
    sizes,
)

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


def rows(module: SigLIP) -> list[Row]:
    """The tower by transformers' names (since its version 5.6; earlier ones have the prefix "vision_model.")."""
    layer = norm("layer_norm1", "norm_1") + norm("layer_norm2", "norm_2")
    layer += attention("self_attn.{1}_proj", "self_attn.out_proj")
    layer += linear("mlp.fc1", "mlp/hidden") + linear("mlp.fc2", "mlp/out")
    return [
        *patch_rows("embeddings.patch_embedding", module.patch),
        Row("embeddings.position_embedding.weight", "positions/table"),
        *layers(layer, module.depth, "encoder.layers."),
        *norm("post_layernorm", "encoder/norm"),
        *within(_pool(module.width), "head.", "pool/"),
    ]


def _build(config: Mapping[str, Any]) -> SigLIP:
    if "vision_config" in config:  # of a whole SiglipModel
        whole = Fields("SiglipModel", config, (*WITHOUT_EFFECT, "text_config"))
        config = whole.take("vision_config", None, TABLE)
        whole.end()
    fields = Fields("SiglipVisionModel", config, WITHOUT_EFFECT)
    fields.only("num_channels", 3)
    fields.only("hidden_act", "gelu_pytorch_tanh")
    fields.only("vision_use_head", True)
    module = SigLIP(**sizes(fields), epsilon=fields.take("layer_norm_eps", 1e-6))
    fields.end()
    return module


def _describe(module: SigLIP) -> dict[str, Any]:
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
