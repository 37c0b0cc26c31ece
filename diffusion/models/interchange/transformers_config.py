"""Fields of the configs of transformers' encoders: sizes, and fields that do not change the output."""

from typing import Any

from diffusion.models.interchange.family import DEPTH
from diffusion.models.interchange.field_table import Field

# Some version of the library writes these into every config: options of training and of text generation.
WITHOUT_EFFECT = (
    "architectures", "attention_dropout", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "chunk_size_feed_forward", "classifier_dropout", "cross_attention_hidden_size", "decoder_start_token_id",
    "diversity_penalty", "dropout", "dropout_rate", "dtype", "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "finetuning_task", "gradient_checkpointing", "id2label", "initializer_factor",
    "initializer_range", "is_encoder_decoder", "label2id", "length_penalty", "max_length", "min_length", "model_type",
    "n_positions", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_decoder_layers",
    "num_return_sequences", "output_past", "pad_token_id", "prefix", "problem_type", "pruned_heads",
    "remove_invalid_values", "repetition_penalty", "return_dict", "scale_decoder_outputs", "sep_token_id",
    "suppress_tokens", "task_specific_params", "temperature", "tie_encoder_decoder", "tie_word_embeddings",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "transformers_version", "typical_p", "use_bfloat16",
    "use_cache",
)  # fmt: skip

STORED: dict[str, Any] = {"stem": "model", "library": "transformers"}
"""The fields of a `Family` whose folders transformers writes."""


def unread(*others: str, **written: Any) -> dict[str, Any]:
    """`FieldTable.unread` of one of transformers' classes.

    Args:
        *others: other fields that change nothing.
        **written: the fields among them that are written, with their values.
    """
    return {**dict.fromkeys((*WITHOUT_EFFECT, *others)), **written}


def encoder_sizes(width: int = 768, depth: int = 12, heads: int = 12, hidden: int = 3072) -> tuple[Field, ...]:
    """The rows of an encoder's sizes, with their defaults."""
    return (
        Field("hidden_size", "width", width),
        Field("num_hidden_layers", "depth", depth, DEPTH),
        Field("num_attention_heads", "heads", heads),
        Field("intermediate_size", "hidden", hidden),
    )
