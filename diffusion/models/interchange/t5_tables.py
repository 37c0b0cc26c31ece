"""T5's encoder: transformers' T5EncoderModel, also out of a whole T5, and out of the single file of SD 3."""

__all__ = ["build", "describe", "rows"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import DEPTH, Family, Fields
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, Row, stacked, within
from diffusion.models.interchange.transformers_config import WITHOUT_EFFECT
from diffusion.models.text_encoders.t5 import MLPS, T5Encoder


def _layer(module: T5Encoder) -> list[Row]:
    table = [Row("layer.0.layer_norm.weight", "norm_1/scale"), Row("layer.1.layer_norm.weight", "norm_2/scale")]
    for i, theirs in enumerate("qkv"):
        at = (slice(None), i)
        table.append(Row(f"layer.0.SelfAttention.{theirs}.weight", "attention/qkv/kernel", DENSE, at))
    table.append(Row("layer.0.SelfAttention.o.weight", "attention/out/kernel", DENSE_OUT))
    if module.mlp == "relu":
        table.append(Row("layer.1.DenseReluDense.wi.weight", "mlp/hidden/kernel", DENSE))
    else:
        table += [
            Row(f"layer.1.DenseReluDense.wi_{i}.weight", "mlp/hidden/kernel", DENSE, (slice(None), i)) for i in range(2)
        ]
    return [*table, Row("layer.1.DenseReluDense.wo.weight", "mlp/out/kernel", DENSE)]


def rows(module: T5Encoder) -> list[Row]:
    """The encoder by transformers' names; its first layer has the table of positions."""
    table = [
        Row("shared.weight", "tokens/embedding"),
        Row("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "positions"),
        Row("encoder.final_layer_norm.weight", "final_norm/scale"),
    ]
    for i in range(module.depth):
        table += within(stacked(_layer(module), i), f"encoder.block.{i}.", "layers/")
    return table


def build(config: Mapping[str, Any]) -> T5Encoder:
    """Our module for their config."""
    fields = Fields("T5EncoderModel", config, (*WITHOUT_EFFECT, "dense_act_fn", "eos_token_id", "is_gated_act"))
    fields.only("layer_norm_epsilon", 1e-6)
    module = T5Encoder(
        vocabulary=fields.take("vocab_size", 32128),
        width=fields.take("d_model", 512),
        depth=fields.take("num_layers", 6, DEPTH),
        heads=fields.take("num_heads", 8),
        head_size=fields.take("d_kv", 64),
        hidden=fields.take("d_ff", 2048),
        mlp=fields.only("feed_forward_proj", *reversed(MLPS)),
        buckets=fields.take("relative_attention_num_buckets", 32),
        farthest=fields.take("relative_attention_max_distance", 128),
    )
    fields.end()
    return module


def describe(module: T5Encoder) -> dict[str, Any]:
    """Their config for our module."""
    return {
        "model_type": "t5",
        "vocab_size": module.vocabulary,
        "d_model": module.width,
        "num_layers": module.depth,
        "num_heads": module.heads,
        "d_kv": module.head_size,
        "d_ff": module.hidden,
        "feed_forward_proj": module.mlp,
        "relative_attention_num_buckets": module.buckets,
        "relative_attention_max_distance": module.farthest,
    }


XXL = {"d_model": 4096, "num_layers": 24, "num_heads": 64, "d_kv": 64, "d_ff": 10240, "feed_forward_proj": "gated-gelu"}
FAMILY = Family(
    name="T5EncoderModel",
    module=T5Encoder,
    build=build,
    describe=describe,
    example=lambda module: (jax.ShapeDtypeStruct((1, 8), jnp.int32),),
    tables={"transformers": rows},
    stem="model",
    library="transformers",
    # The table of tokens under its other name, and the decoder of a whole T5.
    ignored=(r"encoder\.embed_tokens\.weight", r"decoder\..*", r"lm_head\.weight"),
    published={"T5 v1.1 XXL": XXL},
    prefixes=("", "text_encoders.t5xxl.transformer."),
    also={"T5ForConditionalGeneration": {}, "T5WithLMHeadModel": {}, "T5Model": {}},
)
