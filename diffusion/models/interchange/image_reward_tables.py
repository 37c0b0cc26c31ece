"""ImageReward under the names of its authors' file: BLIP's names with "blip." before them, and the head's.

The names come from salesforce/BLIP, models/vit.py and models/med.py; the sizes of BLIP's ViT-L and med_config.json.
"""

__all__ = []

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.image_encoders.blip import BLIP
from diffusion.models.image_reward import ImageReward
from diffusion.models.interchange.family import DEPTH, SIZES, Family, Fields
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, VECTOR, Row, linear, stacked, within
from diffusion.models.interchange.vision_rows import (
    LEADING,
    attention,
    described_sizes,
    layers,
    norm,
    patch_rows,
    sizes,
)
from diffusion.models.text_encoders.med import MEDText

TABLE = schema.Valid("a table of fields", lambda value: isinstance(value, Mapping))
HEAD = (0, 2, 4, 6, 7)  # of the dense layers in the authors' list; the others are dropout


def _vision_rows(module: BLIP) -> list[Row]:
    layer = norm("norm1", "norm_1") + norm("norm2", "norm_2")
    for i, ours in enumerate(("query", "key", "value")):
        rows = (i * module.width, (i + 1) * module.width)
        layer += [
            Row("attn.qkv.weight", f"attention/{ours}/kernel", DENSE, rows=rows),
            Row("attn.qkv.bias", f"attention/{ours}/bias", VECTOR, rows=rows),
        ]
    layer += linear("attn.proj", "attention/out", DENSE_OUT)
    layer += linear("mlp.fc1", "mlp/hidden") + linear("mlp.fc2", "mlp/out")
    return [
        Row("cls_token", "class_token", LEADING),
        Row("pos_embed", "positions/table", LEADING),
        *patch_rows("patch_embed.proj", module.patch),
        *layers(layer, module.depth, "blocks."),
        *norm("norm", "encoder/norm"),
    ]


def _text_rows(module: MEDText) -> list[Row]:
    attended = attention("self.{0}", "output.dense") + norm("output.LayerNorm", "norm")
    layer = within(attended, "attention.", "self/") + within(attended, "crossattention.", "cross/")
    layer += linear("intermediate.dense", "mlp/hidden") + linear("output.dense", "mlp/out")
    layer += norm("output.LayerNorm", "norm")
    return [
        Row("embeddings.word_embeddings.weight", "tokens/embedding"),
        Row("embeddings.position_embeddings.weight", "positions"),
        *norm("embeddings.LayerNorm", "norm"),
        *(row for i in range(module.depth) for row in within(stacked(layer, i), f"encoder.layer.{i}.", "layers/")),
    ]


def _rows(module: ImageReward) -> list[Row]:
    return [
        *within(_vision_rows(module.vision), "blip.visual_encoder.", "vision/"),
        *within(_text_rows(module.text), "blip.text_encoder.", "text/"),
        *(row for i, at in enumerate(HEAD) for row in linear(f"mlp.layers.{at}", f"reward_{i}")),
    ]


def _build(config: Mapping[str, Any]) -> ImageReward:
    fields = Fields("ImageReward", config)
    image = Fields("ImageReward's vision_config", fields.take("vision_config", {}, TABLE))
    text = Fields("ImageReward's text_config", fields.take("text_config", {}, TABLE))
    module = ImageReward(
        vision=BLIP(**sizes(image), epsilon=image.take("layer_norm_eps", 1e-6)),
        text=MEDText(
            vocabulary=text.take("vocab_size", 30524),
            width=text.take("hidden_size", 768),
            depth=text.take("num_hidden_layers", 12, DEPTH),
            heads=text.take("num_attention_heads", 12),
            hidden=text.take("intermediate_size", 3072),
            positions=text.take("max_position_embeddings", 512),
            epsilon=text.take("layer_norm_eps", 1e-12),
        ),
        hidden=fields.take("reward_sizes", (1024, 128, 64, 16), SIZES),
    )
    for part in (image, text, fields):
        part.end()
    return module


def _describe(module: ImageReward) -> dict[str, Any]:
    text = module.text
    return {
        "vision_config": {**described_sizes(module.vision), "layer_norm_eps": module.vision.epsilon},
        "text_config": {
            "vocab_size": text.vocabulary,
            "hidden_size": text.width,
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.heads,
            "intermediate_size": text.hidden,
            "max_position_embeddings": text.positions,
            "layer_norm_eps": text.epsilon,
        },
        "reward_sizes": list(module.hidden),
    }


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
FAMILY = Family(
    name="ImageReward",
    module=ImageReward,
    build=_build,
    describe=_describe,
    example=lambda module: (
        jax.ShapeDtypeStruct((1, 8), jnp.int32),
        jax.ShapeDtypeStruct((1, 8), jnp.bool_),
        jax.ShapeDtypeStruct((1, module.vision.size, module.vision.size, 3), jnp.float32),
    ),
    tables={"original": _rows},
    stem="model",
    library="",
    # BLIP's own projections, which the reward does not read, and a table of the numbers 0 to 511.
    ignored=(r"blip\.(vision|text)_proj\..*", r"blip\.text_encoder\.embeddings\.position_ids"),
    published={"v1.0": {"vision_config": LARGE}},
)
