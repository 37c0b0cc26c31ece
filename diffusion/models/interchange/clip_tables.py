"""CLIP's towers: transformers' classes, and OpenCLIP's names in the single files of SD 2 and SDXL."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.io import schema
from diffusion.models.interchange.family import EPSILON, Family, Fields, array
from diffusion.models.interchange.field_table import A_TABLE, Choice, Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, Row, cut, layers, linear, mlp, norm, patches, within
from diffusion.models.interchange.transformers_config import STORED, encoder_sizes, unread
from diffusion.models.interchange.vision_rows import HEADS, attention, sizes
from diffusion.models.text_encoders.clip import CLIP, CLIPText, CLIPTextProjection, CLIPVision, CLIPVisionProjection


def _layer() -> list[Row]:
    """A layer by transformers' names."""
    table = norm("layer_norm1", "norm_1") + norm("layer_norm2", "norm_2")
    table += attention("self_attn.{1}_proj", "self_attn.out_proj")
    return table + mlp("mlp.fc1", "mlp.fc2", "mlp/")


def original_layer(width: int) -> list[Row]:
    """A layer by OpenAI's and OpenCLIP's names: queries, keys and values are rows of one matrix.

    Args:
        width: width of the layer, a third of the rows.
    """
    table = norm("ln_1", "norm_1") + norm("ln_2", "norm_2")
    table += cut("attn.in_proj_", HEADS, width) + linear("attn.out_proj", "attention/out", DENSE_OUT)
    return table + mlp("mlp.c_fc", "mlp.c_proj", "mlp/")


def text_rows(module: CLIPText) -> list[Row]:
    """The text tower by transformers' names (since its version 5.6; earlier ones have the prefix "text_model.")."""
    return [
        Row("embeddings.token_embedding.weight", "tokens/embedding"),
        Row("embeddings.position_embedding.weight", "positions"),
        *layers(_layer(), module.depth, "encoder.layers.", "encoder/layers/"),
        *norm("final_layer_norm", "final_norm"),
    ]


def original_text_rows(module: CLIPText) -> list[Row]:
    """The text tower by OpenAI's and OpenCLIP's names."""
    return [
        Row("token_embedding.weight", "tokens/embedding"),
        Row("positional_embedding", "positions"),
        *layers(original_layer(module.width), module.depth, "transformer.resblocks.", "encoder/layers/"),
        *norm("ln_final", "final_norm"),
    ]


def vision_rows(module: CLIPVision) -> list[Row]:
    """The image tower by transformers' names."""
    return [
        Row("embeddings.class_embedding", "class_token"),
        Row("embeddings.patch_embedding.weight", "patch_embedding/kernel", patches(module.patch)),
        Row("embeddings.position_embedding.weight", "positions"),
        *norm("pre_layrnorm", "first_norm"),  # transformers spells it so
        *layers(_layer(), module.depth, "encoder.layers.", "encoder/layers/"),
        *norm("post_layernorm", "final_norm"),
    ]


def original_vision_rows(module: CLIPVision) -> list[Row]:
    """The image tower by OpenAI's and OpenCLIP's names."""
    return [
        Row("class_embedding", "class_token"),
        Row("conv1.weight", "patch_embedding/kernel", patches(module.patch)),
        Row("positional_embedding", "positions"),
        *norm("ln_pre", "first_norm"),
        *layers(original_layer(module.width), module.depth, "transformer.resblocks.", "encoder/layers/"),
        *norm("ln_post", "final_norm"),
    ]


ACTIVATION = Choice("hidden_act", "activation", {"quick_gelu": "quick_gelu", "gelu": "gelu"})
TEXT_CONFIG = FieldTable(
    "CLIPTextModel",
    CLIPText,
    (
        Field("vocab_size", "vocabulary", 49408),
        *encoder_sizes(512, 12, 8, 2048),
        Field("max_position_embeddings", "positions", 77),
        ACTIVATION,
        Field("eos_token_id", "eos", 49407),
        Field("layer_norm_eps", "epsilon", 1e-5, EPSILON),
    ),
    unread=unread("projection_dim", model_type="clip_text_model"),
)
VISION_CONFIG = FieldTable(
    "CLIPVisionModel",
    CLIPVision,
    (Follows("num_channels", 3), *sizes(patch=32), ACTIVATION, Field("layer_norm_eps", "epsilon", 1e-5, EPSILON)),
    unread=unread("projection_dim", model_type="clip_vision_model"),
)
FEATURES = Field("projection_dim", "features", 512)


MAYBE_TABLE = schema.optional(A_TABLE)


def _tower(name: str, ours: str, tower: FieldTable) -> Group:
    """A tower's config; old configs repeat fields under a second name, which takes precedence."""
    tower = tower._replace(name=f"CLIPModel's {name}")
    old = f"{name}_dict"

    def write(module: CLIP) -> dict[str, Any]:
        return {name: tower.describe(getattr(module, ours)) | {"projection_dim": module.features}}

    return Group(
        {name: (None, MAYBE_TABLE), old: (None, MAYBE_TABLE)},
        lambda values, _: {ours: tower.build((values[name] or {}) | (values[old] or {}))},
        write,
    )


CONFIG = FieldTable(
    "CLIPModel",
    CLIP,
    (
        _tower("text_config", "text", TEXT_CONFIG),
        _tower("vision_config", "vision", VISION_CONFIG),
        FEATURES,
        Field("logit_scale_init_value", "scale", 2.6592),
    ),
    unread=unread(model_type="clip"),
)


def _projected(name: str, module: type[nn.Module], ours: str, tower: FieldTable) -> dict[str, Any]:
    """Name, class and directions of a tower with its projection, which share one config."""

    def build(config: Mapping[str, Any]) -> nn.Module:
        features = Fields(name, config).take(FEATURES.theirs, FEATURES.default)
        return module(**{ours: tower._replace(name=name).build(config), "features": features})

    def describe(module: Any) -> dict[str, Any]:
        return tower.describe(getattr(module, ours)) | {"projection_dim": module.features}

    return {"name": name, "module": module, "build": build, "describe": describe}


def _ids(module: CLIPText) -> jax.ShapeDtypeStruct:
    return array(1, module.positions, dtype=jnp.int32)


def _images(module: CLIPVision) -> jax.ShapeDtypeStruct:
    return array(1, module.size, module.size, 3)


def _sizes(width: int, depth: int, heads: int, projection: int, activation: str, **others: int) -> dict[str, Any]:
    """The config of a published tower, whose MLPs have four times its width."""
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": depth}
    return sizes | {"num_attention_heads": heads, "hidden_act": activation, "projection_dim": projection} | others


# The text tower of ViT-L/14 (OpenAI): SD 1, and the first of SDXL, SD 3 and Flux.
LARGE = _sizes(768, 12, 12, 768, "quick_gelu", eos_token_id=2)
# Of ViT-H/14 (OpenCLIP) without its last layer, which SD 2 does not use.
HUGE = _sizes(1024, 23, 16, 1024, "gelu", eos_token_id=2)
# Of ViT-bigG/14 (OpenCLIP): the second of SDXL and SD 3.
BIG_G = _sizes(1280, 32, 20, 1280, "gelu", eos_token_id=2)
LARGE_VISION = _sizes(1024, 24, 16, 768, "quick_gelu", image_size=224, patch_size=14)
HUGE_VISION = _sizes(1280, 32, 16, 1024, "gelu", image_size=224, patch_size=14)
PREFIXES = {
    "ldm": "cond_stage_model.transformer.",
    "sgm": "conditioner.embedders.0.transformer.",
    "sd3": "text_encoders.clip_l.transformer.",
}
POSITIONS = r"((text|vision)_model\.)?embeddings\.position_ids"

TEXT = TEXT_CONFIG.family(
    lambda module: (_ids(module),),
    {
        # Every version of the library opens the first, the published one; versions since 5.6 write the second.
        "transformers": lambda module: within(text_rows(module), "text_model."),
        "transformers 5": text_rows,
        "original": original_text_rows,
    },
    **STORED,
    # SD 2's file has this layer and the parts after it, but SD 2 does not use them.
    ignored=(POSITIONS, r"transformer\.resblocks\.23\..*", "text_projection", "logit_scale"),
    published={"ViT-L/14": LARGE, "ViT-H/14 of SD 2": HUGE},
    prefixes=("", *PREFIXES.values(), "cond_stage_model.model."),
)
TEXT_PROJECTION = Family(
    **_projected("CLIPTextModelWithProjection", CLIPTextProjection, "text", TEXT_CONFIG),
    example=lambda module: (_ids(module.text),),
    tables={
        "transformers": lambda module: [
            *within(text_rows(module.text), "text_model.", "text/"),
            Row("text_projection.weight", "projection/kernel", DENSE),
        ],
        "original": lambda module: [
            *within(original_text_rows(module.text), "", "text/"),
            Row("text_projection", "projection/kernel"),
        ],
    },
    **STORED,
    ignored=(POSITIONS, "logit_scale"),
    published={"ViT-bigG/14": BIG_G, "ViT-L/14": LARGE},
    prefixes=(
        "",
        "conditioner.embedders.1.model.",
        "conditioner.embedders.0.model.",
        "text_encoders.clip_g.transformer.",
    ),
)
VISION = VISION_CONFIG.family(
    lambda module: (_images(module),),
    {
        # As for the text tower: every version opens the first, those since 5.6 write the second.
        "transformers": lambda module: within(vision_rows(module), "vision_model."),
        "transformers 5": vision_rows,
    },
    **STORED,
    ignored=(POSITIONS,),
)
VISION_PROJECTION = Family(
    **_projected("CLIPVisionModelWithProjection", CLIPVisionProjection, "vision", VISION_CONFIG),
    example=lambda module: (_images(module.vision),),
    tables={
        "transformers": lambda module: [
            *within(vision_rows(module.vision), "vision_model.", "vision/"),
            Row("visual_projection.weight", "projection/kernel", DENSE),
        ],
        "original": lambda module: [
            *within(original_vision_rows(module.vision), "visual.", "vision/"),
            Row("visual.proj", "projection/kernel"),
        ],
    },
    **STORED,
    ignored=(POSITIONS,),
    published={"ViT-L/14": LARGE_VISION},
)
BOTH = CONFIG.family(
    lambda module: (_ids(module.text), _images(module.vision)),
    {
        "transformers": lambda module: [
            *within(text_rows(module.text), "text_model.", "text/"),
            *within(vision_rows(module.vision), "vision_model.", "vision/"),
            Row("text_projection.weight", "text_projection/kernel", DENSE),
            Row("visual_projection.weight", "image_projection/kernel", DENSE),
            Row("logit_scale", "logit_scale"),
        ],
        "original": lambda module: [
            *within(original_text_rows(module.text), "", "text/"),
            *within(original_vision_rows(module.vision), "visual.", "vision/"),
            Row("text_projection", "text_projection/kernel"),
            Row("visual.proj", "image_projection/kernel"),
            Row("logit_scale", "logit_scale"),
        ],
    },
    **STORED,
    ignored=(POSITIONS,),
    published={
        "ViT-L/14": {"text_config": LARGE, "vision_config": LARGE_VISION, "projection_dim": 768},
        # open_clip, model_configs/ViT-H-14.json: LAION's, and those that were trained on human choices from it.
        "ViT-H/14": {
            "text_config": {**HUGE, "num_hidden_layers": 24},
            "vision_config": HUGE_VISION,
            "projection_dim": 1024,
        },
    },
    prefixes=("", "state_dict."),  # the second in the states of OpenCLIP's trainings, such as HPSv2's
)
FAMILIES = (TEXT, TEXT_PROJECTION, VISION, VISION_PROJECTION, BOTH)
