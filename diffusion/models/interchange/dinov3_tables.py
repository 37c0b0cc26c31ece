"""DINOv3: transformers' DINOv3ViTModel."""

import numpy as np

from diffusion.io import schema
from diffusion.models.image_encoders.dinov3 import PRESETS, DINOv3, preset
from diffusion.models.interchange.dinov2_tables import BACKBONE
from diffusion.models.interchange.family import EPSILON, Computed, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import LEADING, Row, layers, linear, mlp, norm, side_by_side
from diffusion.models.interchange.transformers_config import STORED, encoder_sizes, unread
from diffusion.models.interchange.vision_rows import attention, patch_rows
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
        return table + mlp("mlp.up_proj", "mlp.down_proj", "mlp/")
    return table + side_by_side(("mlp.gate_proj", "mlp.up_proj"), "mlp/hidden") + linear("mlp.down_proj", "mlp/out")


def rows(module: DINOv3) -> list[Row]:
    """The encoder by transformers' names."""
    table = [
        Row("embeddings.cls_token", "class_token", LEADING),
        Row("embeddings.mask_token", "mask_token", LEADING),
        *patch_rows("embeddings.patch_embeddings", module.patch),
        *layers(_layer(module), module.depth, "layer.", "encoder/layers/"),
        *norm("norm", "encoder/norm", module.affine),
    ]
    return table + [Row("embeddings.register_tokens", "registers", LEADING)] * bool(module.registers)


BIASED = {"query_bias": True, "key_bias": False, "value_bias": True}
CONFIG = FieldTable(
    "DINOv3ViTModel",
    DINOv3,
    (
        Follows("num_channels", 3),
        Field("patch_size", "patch", 16),
        *encoder_sizes(384, 12, 6, 1536),
        Field("use_gated_mlp", "gated", False),
        Follows("hidden_act", lambda module: "silu" if module.gated else "gelu", default="gelu"),
        Field("num_register_tokens", "registers", 0),
        Group(
            {name: (biased, None) for name, biased in BIASED.items()},
            lambda values, ours: {"biased": tuple(name for name in PROJECTIONS if values[f"{name}_bias"])},
            lambda module: {f"{name}_bias": name in module.biased for name in PROJECTIONS},
        ),
        Field("rope_theta", "theta", 100.0, schema.number(1e-6)),
        Field("layer_norm_eps", "epsilon", 1e-5, EPSILON),
        Follows("proj_bias", True, silent=True),
        Follows("mlp_bias", True, silent=True),
    ),
    unread=unread(*TRAINING, *BACKBONE, model_type="dinov3_vit"),
    required={"affine": True, "fused": ()},
)


def _no_registers(module: DINOv3) -> dict[str, Computed]:
    """The empty table of registers that a file has if the network has no registers."""
    shape = (1, 0, module.width)
    return {} if module.registers else {"embeddings.register_tokens": Computed(shape, lambda: np.zeros(shape))}


FAMILY = CONFIG.family(
    lambda module: (array(1, module.patch, module.patch, 3),),
    {"transformers": rows},
    computed=_no_registers,
    **STORED,
    published={name: CONFIG.describe(preset(name)) for name in PRESETS},
)
