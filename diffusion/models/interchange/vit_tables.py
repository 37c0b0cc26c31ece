"""Plain vision transformers by transformers' names: MAE's encoder (ViTMAEModel) and I-JEPA's (IJepaModel)."""

from diffusion.models.image_encoders import ijepa, mae
from diffusion.models.image_encoders.ijepa import IJEPA
from diffusion.models.image_encoders.mae import MAE
from diffusion.models.interchange.family import EPSILON, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import LEADING, Row, layers, mlp, norm, within
from diffusion.models.interchange.transformers_config import STORED, unread
from diffusion.models.interchange.vision_rows import attention, patch_rows, sizes

TRAINING = ("attention_probs_dropout_prob", "hidden_dropout_prob", "encoder_stride", "mlp_ratio")
DECODER = (
    "decoder_hidden_size",
    "decoder_intermediate_size",
    "decoder_num_attention_heads",
    "decoder_num_hidden_layers",
    "mask_ratio",
    "norm_pix_loss",
)
POOLER = ("pooler_act", "pooler_output_size")  # fields of a layer that the published networks lack


def _rows(module: MAE | IJEPA) -> list[Row]:
    layer = norm("layernorm_before", "norm_1") + norm("layernorm_after", "norm_2")
    layer += attention("attention.attention.{0}", "attention.output.dense")
    layer += mlp("intermediate.dense", "output.dense", "mlp/")
    return [
        *patch_rows("embeddings.patch_embeddings.projection", module.patch),
        Row("embeddings.position_embeddings", "positions/table", LEADING),
        *layers(layer, module.depth, "encoder.layer.", "encoder/layers/"),
        *norm("layernorm", "encoder/norm", module.affine),
    ]


def _mae_rows(module: MAE) -> list[Row]:
    return [Row("embeddings.cls_token", "class_token", LEADING), *_rows(module)]


def _config(name: str, module: type, kind: str, without_effect: tuple[str, ...]) -> FieldTable:
    return FieldTable(
        name,
        module,
        (
            Follows("num_channels", 3),
            *sizes(),
            Follows("hidden_act", "gelu"),
            Follows("qkv_bias", True),
            Field("layer_norm_eps", "epsilon", 1e-12, EPSILON),
        ),
        unread=unread(*TRAINING, *without_effect, model_type=kind),
        required={"affine": True},
    )


def _example(module: MAE | IJEPA) -> tuple:
    return (array(1, module.patch, module.patch, 3),)


MAE_CONFIG = _config("ViTMAEModel", MAE, "vit_mae", DECODER)
MAE_FAMILY = MAE_CONFIG.family(
    _example,
    {"transformers": _mae_rows, "with its decoder": lambda module: within(_mae_rows(module), "vit.")},
    **STORED,
    ignored=(r"decoder\..*",),
    published={name: MAE_CONFIG.describe(mae.preset(name)) for name in mae.PRESETS},
    also={"ViTMAEForPreTraining": {}},
)
IJEPA_CONFIG = _config("IJepaModel", IJEPA, "ijepa", POOLER)
IJEPA_FAMILY = IJEPA_CONFIG.family(
    _example,
    {"transformers": _rows},
    **STORED,
    published={name: IJEPA_CONFIG.describe(ijepa.preset(name)) for name in ijepa.PRESETS},
)
FAMILIES = (MAE_FAMILY, IJEPA_FAMILY)
