"""DINOv3: transformers' DINOv3ViTModel."""

__all__ = ["rows"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.image_encoders.dinov3 import PRESETS, DINOv3, preset
from diffusion.models.interchange.dinov2_tables import BACKBONE
from diffusion.models.interchange.family import DEPTH, Computed, Family, Fields
from diffusion.models.interchange.rows import DENSE, VECTOR, Row, linear
from diffusion.models.interchange.transformers_config import WITHOUT_EFFECT
from diffusion.models.interchange.vision_rows import LEADING, as_published, attention, layers, norm, patch_rows
from diffusion.models.layers.vision_layers import PROJECTIONS

# Augmentations of the positions while it is trained, and initial values; rotary positions take pictures of any size.
TRAINING = (
    "drop_path_rate",
    "image_size",
    "layerscale_value",
    "pos_embed_jitter",
    "pos_embed_rescale",
    "pos_embed_shift",
)


def _layer(module: DINOv3) -> list[Row]:
    table = norm("norm1", "norm_1") + norm("norm2", "norm_2")
    table += attention("attention.{1}_proj", "attention.o_proj", module.biased)
    table += [Row(f"layer_scale{i}.lambda1", f"scale_{i}") for i in (1, 2)]
    if not module.gated:
        return table + linear("mlp.up_proj", "mlp/hidden") + linear("mlp.down_proj", "mlp/out")
    for i, theirs in enumerate(("gate", "up")):
        table += [
            Row(f"mlp.{theirs}_proj.weight", "mlp/hidden/kernel", DENSE, (slice(None), i)),
            Row(f"mlp.{theirs}_proj.bias", "mlp/hidden/bias", VECTOR, (i,)),
        ]
    return table + linear("mlp.down_proj", "mlp/out")


def rows(module: DINOv3) -> list[Row]:
    """The encoder by transformers' names."""
    table = [
        Row("embeddings.cls_token", "class_token", LEADING),
        Row("embeddings.mask_token", "mask_token", LEADING),
        *patch_rows("embeddings.patch_embeddings", module.patch),
        *layers(_layer(module), module.depth, "layer."),
        *norm("norm", "encoder/norm", module.affine),
    ]
    return table + [Row("embeddings.register_tokens", "registers", LEADING)] * bool(module.registers)


def _build(config: Mapping[str, Any]) -> DINOv3:
    config = {"hidden_act": "gelu", **config}  # their default, also where the MLP is gated
    fields = Fields("DINOv3ViTModel", config, (*WITHOUT_EFFECT, *TRAINING, *BACKBONE))
    fields.only("num_channels", 3)
    gated = fields.take("use_gated_mlp", False)
    fields.only("hidden_act", "silu" if gated else "gelu")
    fields.only("proj_bias", True)
    fields.only("mlp_bias", True)
    default = {"query": True, "key": False, "value": True}
    module = DINOv3(
        patch=fields.take("patch_size", 16),
        width=fields.take("hidden_size", 384),
        depth=fields.take("num_hidden_layers", 12, DEPTH),
        heads=fields.take("num_attention_heads", 6),
        hidden=fields.take("intermediate_size", 1536),
        gated=gated,
        registers=fields.take("num_register_tokens", 0),
        biased=tuple(name for name in PROJECTIONS if fields.take(f"{name}_bias", default[name])),
        theta=fields.take("rope_theta", 100.0),
        epsilon=fields.take("layer_norm_eps", 1e-5),
    )
    fields.end()
    return module


def _describe(module: DINOv3) -> dict[str, Any]:
    as_published("DINOv3ViTModel", module)
    return {
        "model_type": "dinov3_vit",
        "num_channels": 3,
        "patch_size": module.patch,
        "hidden_size": module.width,
        "num_hidden_layers": module.depth,
        "num_attention_heads": module.heads,
        "intermediate_size": module.hidden,
        "use_gated_mlp": module.gated,
        "hidden_act": "silu" if module.gated else "gelu",
        "num_register_tokens": module.registers,
        **{f"{name}_bias": name in module.biased for name in PROJECTIONS},
        "rope_theta": module.theta,
        "layer_norm_eps": module.epsilon,
    }


def _no_registers(module: DINOv3) -> dict[str, Computed]:
    """The empty table of registers that a file has where there are none."""
    shape = (1, 0, module.width)
    return {} if module.registers else {"embeddings.register_tokens": Computed(shape, lambda: np.zeros(shape))}


FAMILY = Family(
    name="DINOv3ViTModel",
    module=DINOv3,
    build=_build,
    describe=_describe,
    example=lambda module: (jax.ShapeDtypeStruct((1, module.patch, module.patch, 3), jnp.float32),),
    tables={"transformers": rows},
    computed=_no_registers,
    stem="model",
    library="transformers",
    published={name: _describe(preset(name)) for name in PRESETS},
)
