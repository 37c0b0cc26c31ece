"""The table of BLIP's captioner in the layout of transformers' BlipForConditionalGeneration.

In the published weights the head is tied to the table of tokens. Files of older versions of transformers store the tied
head a second time, and files of fine-tuned models may have a separate head. If a file has a head, it is read.
"""

import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.blip_captioner import BLIPCaptioner
from diffusion.models.image_encoders.blip import BLIP
from diffusion.models.interchange.family import EPSILON, array
from diffusion.models.interchange.field_table import Field, FieldTable, Follows, part_of
from diffusion.models.interchange.image_reward_tables import text_rows
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, LEADING, Row, cut, layers, linear, mlp, norm, within
from diffusion.models.interchange.tensor_files import Tensors
from diffusion.models.interchange.transformers_config import STORED, encoder_sizes, unread
from diffusion.models.interchange.vision_rows import HEADS, patch_rows, sizes
from diffusion.models.text_encoders.med import MEDDecoder

HEAD = "text_decoder.cls.predictions."


def _vision_rows(module: BLIP) -> list[Row]:
    layer = norm("layer_norm1", "norm_1") + norm("layer_norm2", "norm_2")
    layer += cut("self_attn.qkv.", HEADS, module.width) + linear("self_attn.projection", "attention/out", DENSE_OUT)
    layer += mlp("mlp.fc1", "mlp.fc2", "mlp/")
    return [
        Row("embeddings.class_embedding", "class_token", LEADING),
        Row("embeddings.position_embedding", "positions/table", LEADING),
        *patch_rows("embeddings.patch_embedding", module.patch),
        *layers(layer, module.depth, "encoder.layers.", "encoder/layers/"),
        *norm("post_layernorm", "encoder/norm"),
    ]


def _head_rows(module: MEDDecoder) -> list[Row]:
    rows = [Row("bias", "head_bias")] + [Row("decoder.weight", "head/kernel", DENSE)] * (not module.tied)
    rows += linear("transform.dense", "transform") + norm("transform.LayerNorm", "transform_norm")
    return within(rows, HEAD)


def _rows(module: BLIPCaptioner) -> list[Row]:
    return [
        *within(_vision_rows(module.vision), "vision_model.", "vision/"),
        *within(text_rows(module.text), "text_decoder.bert.", "text/"),
        *within(_head_rows(module.text), ours="text/"),
    ]


def _varied(module: BLIPCaptioner, tensors: Tensors) -> BLIPCaptioner:
    return module.clone(text=module.text.clone(tied=f"{HEAD}decoder.weight" not in tensors.shapes))


VISION = FieldTable(
    "BlipForConditionalGeneration's vision_config",
    BLIP,
    (
        Field("image_size", "size", 384),
        *sizes()[1:],
        Field("layer_norm_eps", "epsilon", 1e-5, EPSILON),
        Follows("num_channels", 3, silent=True),
        Follows("hidden_act", "gelu", silent=True),
    ),
    unread=unread("projection_dim", model_type="blip_vision_model"),
    required={"affine": True},
)
TEXT = FieldTable(
    "BlipForConditionalGeneration's text_config",
    MEDDecoder,
    (
        Field("vocab_size", "vocabulary", 30524),
        *encoder_sizes(heads=8),
        Field("max_position_embeddings", "positions", 512),
        Field("layer_norm_eps", "epsilon", 1e-12, EPSILON),
        Field("bos_token_id", "start", 30522, schema.integer()),
        Field("sep_token_id", "stop", 102, schema.integer()),
        Follows("hidden_act", "gelu", silent=True),
    ),
    unread=unread(
        "attention_probs_dropout_prob",
        "encoder_hidden_size",
        "eos_token_id",
        "hidden_dropout_prob",
        "is_decoder",
        "label_smoothing",
        "projection_dim",
        model_type="blip_text_model",
    ),
)
CONFIG = FieldTable(
    "BlipForConditionalGeneration",
    BLIPCaptioner,
    (part_of("vision_config", "vision", VISION), part_of("text_config", "text", TEXT)),
    unread=unread(
        "image_text_hidden_size", "label_smoothing", "logit_scale_init_value", "projection_dim", model_type="blip"
    ),
)
FAMILY = CONFIG.family(
    lambda module: (array(1, 8, dtype=jnp.int32), array(1, module.vision.size, module.vision.size, 3)),
    {"transformers": _rows},
    **STORED,
    # The first is a table of the numbers 0 to 511, the second the head's bias under another name.
    ignored=(r"text_decoder\.bert\.embeddings\.position_ids", r"text_decoder\.cls\.predictions\.decoder\.bias"),
    varied=_varied,
)
