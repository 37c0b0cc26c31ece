"""DINOv2: transformers' Dinov2Model and Dinov2WithRegistersModel."""

from diffusion.models.image_encoders.dinov2 import PRESETS, DINOv2, preset
from diffusion.models.interchange.family import DEPTH, EPSILON, Family, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import DENSE, LEADING, VECTOR, Row, layers, linear, mlp, norm
from diffusion.models.interchange.transformers_config import STORED, unread
from diffusion.models.interchange.vision_rows import attention, patch_rows

IMAGE = ("attention_probs_dropout_prob", "hidden_dropout_prob", "drop_path_rate")  # fields of their training
BACKBONE = ("apply_layernorm", "reshape_hidden_states", "out_features", "out_indices", "stage_names")  # other classes'


def _layer(module: DINOv2) -> list[Row]:
    table = norm("norm1", "norm_1") + norm("norm2", "norm_2")
    table += attention("attention.attention.{0}", "attention.output.dense")
    table += [Row(f"layer_scale{i}.lambda1", f"scale_{i}") for i in (1, 2)]
    if not module.gated:
        return table + mlp("mlp.fc1", "mlp.fc2", "mlp/")
    for i in range(2):  # the gate, and what it gates: rows of one matrix
        rows = (i * module.hidden, (i + 1) * module.hidden)
        table += [
            Row("mlp.weights_in.weight", "mlp/hidden/kernel", DENSE, (slice(None), i), rows),
            Row("mlp.weights_in.bias", "mlp/hidden/bias", VECTOR, (i,), rows),
        ]
    return table + linear("mlp.weights_out", "mlp/out")


def rows(module: DINOv2) -> list[Row]:
    """The encoder by the published names."""
    table = [
        Row("embeddings.cls_token", "class_token", LEADING),
        Row("embeddings.mask_token", "mask_token"),
        Row("embeddings.position_embeddings", "positions/table", LEADING),
        *patch_rows("embeddings.patch_embeddings.projection", module.patch),
        *layers(_layer(module), module.depth, "encoder.layer.", "encoder/layers/"),
        *norm("layernorm", "encoder/norm", module.affine),
    ]
    return table + [Row("embeddings.register_tokens", "registers", LEADING)] * bool(module.registers)


def _hidden(width: int, ratio: int, gated: bool) -> int:
    """Features inside the MLP: two thirds of the plain one's where it is gated, rounded up to a multiple of 8."""
    return (int(width * ratio * 2 / 3) + 7) // 8 * 8 if gated else width * ratio


def _ratio(module: DINOv2) -> int:
    for ratio in range(1, 65):
        if _hidden(module.width, ratio, module.gated) == module.hidden:
            return ratio
    raise ValueError(
        f"hidden = {module.hidden} cannot be written in this format: it is not a supported multiple of width = "
        f"{module.width}."
    )


def _registers(module: DINOv2) -> int:
    if not module.registers:
        raise ValueError("registers = 0 cannot be written in this format.")
    return module.registers


def _family(name: str, kind: str, registers: int) -> Family:
    config = FieldTable(
        name,
        DINOv2,
        (
            Follows("num_channels", 3),
            Field("image_size", "size", 224),
            Field("patch_size", "patch", 16 if registers else 14),
            Field("hidden_size", "width", 768),
            Field("num_hidden_layers", "depth", 12, DEPTH),
            Field("num_attention_heads", "heads", 12),
            Field("use_swiglu_ffn", "gated", False),
            Field(
                "mlp_ratio",
                "hidden",
                4,
                read=lambda ratio, ours: _hidden(ours["width"], ratio, ours["gated"]),
                write=_ratio,
            ),
            Field("layer_norm_eps", "epsilon", 1e-6, EPSILON),
            Follows("hidden_act", "gelu"),
            Follows("qkv_bias", True),
            Field("num_register_tokens", "registers", registers, write=_registers)
            if registers
            else Follows("use_mask_token", True, silent=True),
        ),
        unread=unread(*IMAGE, *BACKBONE, "layerscale_value", model_type=kind),
        required={"affine": True} | ({} if registers else {"registers": 0}),
    )
    return config.family(
        lambda module: (array(1, module.patch, module.patch, 3),),
        {"transformers": rows},
        **STORED,
        published={size: config.describe(preset(size, registers=registers)) for size in PRESETS},
    )


FAMILIES = (_family("Dinov2Model", "dinov2", 0), _family("Dinov2WithRegistersModel", "dinov2_with_registers", 4))
