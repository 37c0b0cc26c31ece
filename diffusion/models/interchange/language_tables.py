"""Language models that diffuse masks, read from folders with the files and the config.json of their authors.

| model | tensors in the files | network |
|-------|-------|---------|
| LLaDA | model.transformer.blocks.0.q_proj.weight, ... | Llama's layers and a separate head |
| Dream | named as in Qwen 2.5 | Qwen 2.5's layers; the state at a token predicts the next token |

Reference: Nie et al. 2025, "Large Language Diffusion Models"; Ye et al. 2025, "Dream 7B: Diffusion Large Language
Models".
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from diffusion.io import limits, schema
from diffusion.models.interchange import decoder_tables, folders, tensor_files
from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, Family, Refusal, array, naming
from diffusion.models.interchange.field_table import Field, FieldTable, Follows
from diffusion.models.interchange.rows import DENSE, DENSE_OUT, Row, layers, side_by_side, within
from diffusion.models.interchange.transformers_config import unread
from diffusion.models.language_denoiser import LanguageDenoiser

LLADA, DREAM = "LLaDAModelLM", "DreamModel"


class LanguageModel(NamedTuple):
    """A published language model that diffuses masks.

    Attributes:
        network: the network.
        variables: {"params": its parameters}.
        mask: the id of the mask, for `discrete.absorbing(keeping, network.size, mask)`.
    """

    network: LanguageDenoiser
    variables: dict[str, Any]
    mask: int


def load(folder: str | pathlib.Path, dtype: str = "float32") -> LanguageModel:
    """The language model of a folder.

    Args:
        folder: a folder with config.json and the tensors: one safetensors file, or several with their index.
        dtype: compute type of the network, "float32" or "bfloat16".

    Raises:
        FileNotFoundError: if a file is missing.
        Refusal: if the config belongs to another model, or has a value that is not supported.
        Mismatch: if the tensors do not fit the config.
    """
    folder = pathlib.Path(folder).expanduser()
    config = folders.read_config(folder)
    kind = folders.family_of(config, folder)
    if kind not in TABLES:
        raise Refusal(f"{folder}/config.json is of {limits.short(kind)}, and not of {LLADA} or {DREAM}.")
    with naming(folder / "config.json"):
        network: Any = folders.built(FAMILY._replace(name=kind, build=CONFIGS[kind].build), config)
        mask: Any = config.get("mask_token_id")
        if why := schema.objection("mask_token_id", mask, schema.integer(0, network.size - 1)):
            raise Refusal(why)
    network = network.clone(dtype=dtype)
    tensors = tensor_files.open_tensors(folder)
    params = folders.read(folders.Found(FAMILY, network, kind, tensors))
    return LanguageModel(network, {"params": params}, mask)


def _llada(module: LanguageDenoiser) -> list[Row]:
    layer = [
        Row("attn_norm.weight", "norm_1/scale"),
        Row("ff_norm.weight", "norm_2/scale"),
        *(Row(f"{name[0]}_proj.weight", f"attention/{name}/kernel", DENSE) for name in ("query", "key", "value")),
        Row("attn_out.weight", "attention/out/kernel", DENSE_OUT),
        *side_by_side(("ff_proj", "up_proj"), "mlp/hidden", bias=False),
        Row("ff_out.weight", "mlp/out/kernel", DENSE),
    ]
    table = [
        Row("wte.weight", "decoder/tokens/embedding"),
        Row("ln_f.weight", "decoder/final_norm/scale"),
        *layers(layer, module.depth, "blocks.", "decoder/layers/"),
        *[Row("ff_out.weight", "head/kernel", DENSE)] * (not module.tied),
    ]
    return within(table, "model.transformer.")


def _dream(module: LanguageDenoiser) -> list[Row]:
    head = [Row("lm_head.weight", "head/kernel", DENSE)] * (not module.tied)
    return within(decoder_tables.rows(module.decoder, "model."), ours="decoder/") + head


TABLES = {LLADA: _llada, DREAM: _dream}
EPSILON = schema.number(1e-12, 1)
THETA = schema.number(1e-6)
CONFIGS = {
    LLADA: FieldTable(
        LLADA,
        LanguageDenoiser,
        (
            Field("vocab_size", "size", 126_464),
            Field("d_model", "width", 4096),
            Field("n_layers", "depth", 32, DEPTH),
            Field("n_heads", "heads", 32),
            Field("n_kv_heads", "key_heads", None, MAYBE_SIZE, lambda heads, ours: heads or ours["heads"]),
            Field("mlp_hidden_size", "hidden", 12_288),
            Field("rms_norm_eps", "epsilon", 1e-5, EPSILON),
            Field("rope_theta", "theta", 500_000.0, THETA),
            Field("weight_tying", "tied", False),
            Follows("rope", True, silent=True),
            Follows("alibi", False, silent=True),
            Follows("block_type", "llama", silent=True),
            Follows("layer_norm_type", "rms", silent=True),
            Follows("activation_type", "silu", silent=True),
            Follows("attention_layer_norm", False, silent=True),
            Follows("include_bias", False, silent=True),
            Follows("include_qkv_bias", False, silent=True),
            Follows("input_emb_norm", False, silent=True),
            Follows("scale_logits", False, silent=True),
        ),
        unread=unread(
            "alibi_bias_max", "attention_layer_norm_with_affine", "auto_map", "bias_for_layer_norm", "block_group_size",
            "embedding_dropout", "embedding_size", "eos_token_id", "flash_attention", "init_cutoff_factor",
            "init_device", "init_fn", "init_std", "layer_norm_with_affine", "mask_token_id", "max_sequence_length",
            "mlp_ratio", "multi_query_attention", "precision", "residual_dropout", "rope_full_precision",
        ),
    ),
    DREAM: FieldTable(
        DREAM,
        LanguageDenoiser,
        (
            Field("vocab_size", "size", 152_064),
            Field("hidden_size", "width", 3584),
            Field("num_hidden_layers", "depth", 28, DEPTH),
            Field("num_attention_heads", "heads", 28),
            Field("num_key_value_heads", "key_heads", 4),
            Field("intermediate_size", "hidden", 18_944),
            Field("rms_norm_eps", "epsilon", 1e-6, EPSILON),
            Field("rope_theta", "theta", 1_000_000.0, THETA),
            Field("tie_word_embeddings", "tied", False),
            Follows("hidden_act", "silu", silent=True),
            Follows("use_sliding_window", False, silent=True),
            Follows("rope_scaling", None, silent=True),
        ),
        unread=unread(
            "auto_map", "eos_token_id", "mask_token_id", "max_position_embeddings", "max_window_layers",
            "sliding_window",
        ),
        required={"biased": True, "shifted": True},
    ),
}  # fmt: skip


def _no_config(config: Mapping[str, Any] | LanguageDenoiser) -> Any:
    raise Refusal("LLaDA and Dream are read by `language_tables.load`.")


FAMILY = Family(
    "LanguageDenoiser",
    LanguageDenoiser,
    _no_config,
    _no_config,
    lambda module: (array(1, 8, dtype=jnp.int32),),
    TABLES,
    library="",
    ignored=(r".*rotary_emb\.inv_freq",),
)
