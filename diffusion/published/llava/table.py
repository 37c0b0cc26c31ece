"""Llava by the names of transformers: Llama, CLIP's image tower and the two layers between them."""

import functools

import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.interchange import clip_tables, decoder_tables
from diffusion.models.interchange.family import array
from diffusion.models.interchange.field_table import A_TABLE, Field, FieldTable, Follows, part_of
from diffusion.models.interchange.rows import Row, mlp, within
from diffusion.models.interchange.transformers_config import STORED, unread
from diffusion.published.llava.network import Llava

TEXT = "LlamaModel"
BEFORE = {  # {layout: the prefixes of the tower's names, of the language model's, and of the layers between them}
    "transformers": ("vision_tower.vision_model.", "language_model.model.", "multi_modal_projector."),
    "transformers 5": ("vision_tower.", "language_model.model.", "multi_modal_projector."),
}
LLAMA = schema.Valid(
    "a table whose model_type is 'llama'",
    lambda value: A_TABLE.holds(value) and value.get("model_type", "llama") == "llama",
)


def rows(module: Llava, before: tuple[str, str, str]) -> list[Row]:
    """Tower, language model and the layers between them; `before` holds the prefixes of their names."""
    vision, text, between = before
    return [
        *within(clip_tables.vision_rows(module.vision), vision, "vision/"),
        *within(decoder_tables.rows(module.text, ""), text, "text/"),
        *within(mlp("linear_1", "linear_2", ""), between),
    ]


VISION_CONFIG = clip_tables.VISION_CONFIG._replace(
    unread={**clip_tables.VISION_CONFIG.unread, "vocab_size": None}  # that of a text tower, which is not there
)
CONFIG = FieldTable(
    "LlavaForConditionalGeneration",
    Llava,
    (
        part_of("vision_config", "vision", VISION_CONFIG),
        Field(
            "text_config",
            "text",
            {},
            LLAMA,
            lambda config, _: decoder_tables.build(TEXT, config),
            lambda module: decoder_tables.describe(TEXT, module.text),
        ),
        Field("image_token_index", "placeholder", 32000, schema.integer(0)),
        Follows("vision_feature_layer", -2),
        Follows("vision_feature_select_strategy", "default"),
        Follows("projector_hidden_act", "gelu"),
        Follows("multimodal_projector_bias", True),
    ),
    unread=unread("image_seq_length", "ignore_index", "vocab_size", model_type="llava"),
)
FAMILY = CONFIG.family(
    lambda module: (array(1, 8, dtype=jnp.int32),),
    {layout: functools.partial(rows, before=before) for layout, before in BEFORE.items()},
    **STORED,
    ignored=(r"(language_model\.)?lm_head\.weight", r".*rotary_emb\.inv_freq", r".*embeddings\.position_ids"),
)
FAMILIES = {FAMILY.name: FAMILY}
