"""ImageReward under the names of its authors' file: BLIP's names with "blip." before them, and the head's.

The names come from salesforce/BLIP, models/vit.py and models/med.py; the sizes of BLIP's ViT-L and med_config.json.
"""

import jax.numpy as jnp

from diffusion.models.image_encoders.blip import BLIP
from diffusion.models.image_reward import ImageReward
from diffusion.models.interchange.family import EPSILON, SIZES, array
from diffusion.models.interchange.field_table import Field, FieldTable, part_of
from diffusion.models.interchange.rows import DENSE_OUT, LEADING, Row, cut, layers, linear, mlp, norm, within
from diffusion.models.interchange.transformers_config import encoder_sizes
from diffusion.models.interchange.vision_rows import HEADS, attention, patch_rows, sizes
from diffusion.models.text_encoders.med import MED, MEDText

HEAD = (0, 2, 4, 6, 7)  # numbers of the dense layers in the authors' list; the others are dropout


def _vision_rows(module: BLIP) -> list[Row]:
    layer = norm("norm1", "norm_1") + norm("norm2", "norm_2")
    layer += cut("attn.qkv.", HEADS, module.width) + linear("attn.proj", "attention/out", DENSE_OUT)
    layer += mlp("mlp.fc1", "mlp.fc2", "mlp/")
    return [
        Row("cls_token", "class_token", LEADING),
        Row("pos_embed", "positions/table", LEADING),
        *patch_rows("patch_embed.proj", module.patch),
        *layers(layer, module.depth, "blocks.", "encoder/layers/"),
        *norm("norm", "encoder/norm"),
    ]


def text_rows(module: MED) -> list[Row]:
    """BLIP's BERT, of its encoder and its decoder."""
    attended = attention("self.{0}", "output.dense") + norm("output.LayerNorm", "norm")
    layer = within(attended, "attention.", "self/") + within(attended, "crossattention.", "cross/")
    layer += mlp("intermediate.dense", "output.dense", "mlp/")
    layer += norm("output.LayerNorm", "norm")
    return [
        Row("embeddings.word_embeddings.weight", "tokens/embedding"),
        Row("embeddings.position_embeddings.weight", "positions"),
        *norm("embeddings.LayerNorm", "norm"),
        *layers(layer, module.depth, "encoder.layer.", "layers/"),
    ]


def _rows(module: ImageReward) -> list[Row]:
    return [
        *within(_vision_rows(module.vision), "blip.visual_encoder.", "vision/"),
        *within(text_rows(module.text), "blip.text_encoder.", "text/"),
        *(row for i, at in enumerate(HEAD) for row in linear(f"mlp.layers.{at}", f"reward_{i}")),
    ]


VISION = FieldTable(
    "ImageReward's vision_config",
    BLIP,
    (*sizes(), Field("layer_norm_eps", "epsilon", 1e-6, EPSILON)),
    required={"affine": True},
)
TEXT = FieldTable(
    "ImageReward's text_config",
    MEDText,
    (
        Field("vocab_size", "vocabulary", 30524),
        *encoder_sizes(),
        Field("max_position_embeddings", "positions", 512),
        Field("layer_norm_eps", "epsilon", 1e-12, EPSILON),
    ),
)
CONFIG = FieldTable(
    "ImageReward",
    ImageReward,
    (
        part_of("vision_config", "vision", VISION),
        part_of("text_config", "text", TEXT),
        Field("reward_sizes", "hidden", (1024, 128, 64, 16), SIZES),
    ),
)
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
FAMILY = CONFIG.family(
    lambda module: (
        array(1, 8, dtype=jnp.int32),
        array(1, 8, dtype=bool),
        array(1, module.vision.size, module.vision.size, 3),
    ),
    {"original": _rows},
    stem="model",
    library="",
    # BLIP's own projections, which the reward does not read, and a table of the numbers 0 to 511.
    ignored=(r"blip\.(vision|text)_proj\..*", r"blip\.text_encoder\.embeddings\.position_ids"),
    published={"v1.0": {"vision_config": LARGE}},
)
