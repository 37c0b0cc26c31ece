"""T5's encoder: transformers' T5EncoderModel, the encoder of a whole T5 or of SD 3's single file, and umT5's."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from diffusion.models.interchange.family import DEPTH, Family, array
from diffusion.models.interchange.field_table import Choice, Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, Row, layers, side_by_side
from diffusion.models.interchange.transformers_config import STORED, unread
from diffusion.models.text_encoders.t5 import MLPS, T5Encoder

T5, UMT5 = "T5EncoderModel", "UMT5EncoderModel"
POSITIONS = "layer.0.SelfAttention.relative_attention_bias.weight"
USUAL: Mapping[str, Mapping[str, Any]] = {  # those defaults of the configs in which the two classes differ
    T5: {"vocab_size": 32128, "num_layers": 6, "num_heads": 8, "d_ff": 2048, "feed_forward_proj": "relu"},
    UMT5: {"vocab_size": 250112, "num_layers": 8, "num_heads": 6, "d_ff": 1024, "feed_forward_proj": "gated-gelu"},
}

ACTIVATIONS = {"gated-gelu": "gelu_new", "relu": "relu"}


def _layer(module: T5Encoder) -> list[Row]:
    table = [Row("layer.0.layer_norm.weight", "norm_1/scale"), Row("layer.1.layer_norm.weight", "norm_2/scale")]
    table += side_by_side((f"layer.0.SelfAttention.{theirs}" for theirs in "qkv"), "attention/qkv", bias=False)
    table.append(Row("layer.0.SelfAttention.o.weight", "attention/out/kernel", DENSE_OUT))
    if module.own_positions:
        table.append(Row(POSITIONS, "positions"))
    if module.mlp == "relu":
        table.append(Row("layer.1.DenseReluDense.wi.weight", "mlp/hidden/kernel", DENSE))
    else:
        table += side_by_side((f"layer.1.DenseReluDense.wi_{i}" for i in range(2)), "mlp/hidden", bias=False)
    return [*table, Row("layer.1.DenseReluDense.wo.weight", "mlp/out/kernel", DENSE)]


def rows(module: T5Encoder) -> list[Row]:
    """The rows of the encoder, by transformers' names.

    In T5 the first layer has the table of positions; in umT5 every layer has one.
    """
    table = [Row("shared.weight", "tokens/embedding"), Row("encoder.final_layer_norm.weight", "final_norm/scale")]
    if not module.own_positions:
        table.append(Row(f"encoder.block.0.{POSITIONS}", "positions"))
    table += layers(_layer(module), module.depth, "encoder.block.", "layers/")
    return table


def _own_positions(name: str) -> Group:
    per_layer = name == UMT5

    def write(module: T5Encoder) -> dict[str, Any]:
        if module.own_positions != per_layer:
            raise ValueError(
                f"own_positions = {module.own_positions} is not supported here; in umT5 each layer has its own "
                "positions, and in T5 all share one table."
            )
        return {}

    return Group({}, lambda values, ours: {"own_positions": per_layer}, write)


def config(name: str) -> FieldTable:
    """The fields of T5EncoderModel or UMT5EncoderModel."""
    usual = USUAL[name]
    return FieldTable(
        name,
        T5Encoder,
        (
            _own_positions(name),
            Field("vocab_size", "vocabulary", usual["vocab_size"]),
            Field("d_model", "width", 512),
            Field("num_layers", "depth", usual["num_layers"], DEPTH),
            Field("num_heads", "heads", usual["num_heads"]),
            Field("d_kv", "head_size", 64),
            Field("d_ff", "hidden", usual["d_ff"]),
            Choice(
                "feed_forward_proj",
                "mlp",
                {usual["feed_forward_proj"]: usual["feed_forward_proj"]} | {mlp: mlp for mlp in MLPS},
            ),
            Field("relative_attention_num_buckets", "buckets", 32),
            Field("relative_attention_max_distance", "farthest", 128),
            Follows("layer_norm_epsilon", 1e-6, silent=True),
            Follows("dense_act_fn", lambda module: ACTIVATIONS[module.mlp], silent=True),  # which transformers computes
        ),
        unread=unread(
            "eos_token_id", "is_gated_act", "scalable_attention", model_type="umt5" if name == UMT5 else "t5"
        ),
    )


def _family(name: str, published: Mapping[str, Mapping[str, Any]], **how: Any) -> Family:
    return config(name).family(
        lambda module: (array(1, 8, dtype=jnp.int32),),
        {"transformers": rows},
        **STORED,
        # These are the table of tokens under a second name, and the decoder of a whole T5.
        ignored=(r"encoder\.embed_tokens\.weight", r"decoder\..*", r"lm_head\.weight"),
        published=published,
        **how,
    )


XXL = {"d_model": 4096, "num_layers": 24, "num_heads": 64, "d_kv": 64, "d_ff": 10240, "feed_forward_proj": "gated-gelu"}
FAMILIES = (
    _family(
        T5,
        {"T5 v1.1 XXL": XXL},
        prefixes=("", "text_encoders.t5xxl.transformer."),
        also={"T5ForConditionalGeneration": {}, "T5WithLMHeadModel": {}, "T5Model": {}},
    ),
    _family(
        UMT5, {"umT5 XXL": {**XXL, "vocab_size": 256384}}, also={"UMT5ForConditionalGeneration": {}, "UMT5Model": {}}
    ),
)
