"""The tables of language models' decoders under transformers' names, as separate models or inside larger ones.

The files of all classes use the same names for tensors. `PUBLISHED` holds the differences, an entry for each class.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from diffusion.io import limits, schema
from diffusion.models.interchange.family import DEPTH, MAYBE_NUMBER, MAYBE_SIZE, Family, Refusal, array
from diffusion.models.interchange.field_table import ABSENT, Field, FieldTable, Follows, Group
from diffusion.models.interchange.rows import (
    DENSE,
    DENSE_OUT,
    VECTOR,
    Row,
    layers,
    query_key_norms,
    side_by_side,
    within,
)
from diffusion.models.interchange.transformers_config import STORED, unread
from diffusion.models.text_encoders.decoder import DecoderEncoder

NEAR, FAR = "sliding_attention", "full_attention"
LAYERS = schema.optional(schema.several(schema.Valid(f"{NEAR} or {FAR}", lambda value: value in (NEAR, FAR)), 1, 512))
LIST = schema.several(schema.PLAIN, 0, 16)
TURNS = schema.optional(
    schema.table(schema.either(schema.PLAIN, LIST, schema.table(schema.either(schema.PLAIN, LIST))))
)
THETA = schema.number(1e-6)
LLAMA_3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
SCALINGS = {"default": (), "mrope": (), "linear": LLAMA_3[:1], "llama3": LLAMA_3}  # {kind: the names of its numbers}
BEFORE = {  # {layout: the prefix of the names}
    "transformers": "",
    "of a whole one": "model.",
    "of pictures and text": "model.language_model.",
    "of pictures and text, transformers 4": "language_model.model.",
    "of pictures and text alone": "language_model.",
}


class Published(NamedTuple):
    """The facts of a class of transformers, besides its sizes.

    Attributes:
        model_type: the field `model_type` of the class's configs.
        containers: larger classes whose files also hold this class.
        defaults: defaults of config fields that differ from `SIZES`.
        fixed: the values of our fields that all networks of the class share.
        near_fields: the config fields about layers with windowed attention, {field: (default, valid values)}.
        near: a function (values of these fields, depth) -> whether each layer has windowed attention, for configs that
            do not list the layers.
        window: default number of tokens in a window.
        near_theta: default base of the rotary frequencies in layers with windowed attention; 0 for the base of all
            layers.
    """

    model_type: str
    containers: tuple[str, ...]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any] = {}
    near_fields: Mapping[str, tuple[Any, schema.Valid | None]] = {}
    near: Callable[..., tuple[bool, ...]] = lambda depth: (False,) * depth
    window: int | None = None
    near_theta: float = 0.0


QWEN_NEAR = {"use_sliding_window": (False, None), "max_window_layers": (28, schema.integer())}


def _qwen_near(used: bool, first: int, depth: int) -> tuple[bool, ...]:
    return tuple(used and i >= first for i in range(depth))


def _gemma_every(layers: int) -> dict[str, tuple[Any, schema.Valid]]:
    return {"sliding_window_pattern": (layers, schema.integer(1))}


def _gemma_near(every: int, depth: int) -> tuple[bool, ...]:
    return tuple((i + 1) % every > 0 for i in range(depth))


GEMMA = {"gemma": True, "activation": "gelu"}
PUBLISHED = {
    "LlamaModel": Published(
        "llama", ("LlamaForCausalLM",), {"vocab_size": 32000, "intermediate_size": 11008, "num_key_value_heads": None}
    ),
    "MistralModel": Published(
        "mistral",
        ("MistralForCausalLM", "Mistral3ForConditionalGeneration"),
        {"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8},
        near=lambda depth: (True,) * depth,
        window=4096,
    ),
    "Qwen2Model": Published(
        "qwen2",
        ("Qwen2ForCausalLM", "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLTextModel"),
        {"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32},
        {"biased": True},
        QWEN_NEAR,
        _qwen_near,
        4096,
    ),
    "Qwen3Model": Published(
        "qwen3",
        ("Qwen3ForCausalLM",),
        {"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32, "head_dim": 128},
        {"qk_norm": True},
        QWEN_NEAR,
        _qwen_near,
        4096,
    ),
    "Qwen3VLTextModel": Published(
        "qwen3_vl_text",
        ("Qwen3VLModel", "Qwen3VLForConditionalGeneration"),
        {"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32, "head_dim": 128,
         "rope_theta": 500_000.0},
        {"qk_norm": True},
    ),
    "Gemma2Model": Published(
        "gemma2",
        ("Gemma2ForCausalLM",),
        {"vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
         "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "attn_logit_softcapping": 50.0},
        GEMMA,
        _gemma_every(2),
        _gemma_near,
        4096,
    ),
    "Gemma3TextModel": Published(
        "gemma3_text",
        ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        {"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
         "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rope_theta": 1e6},
        {**GEMMA, "qk_norm": True},
        _gemma_every(6),
        _gemma_near,
        4096,
        10_000.0,
    ),
}  # fmt: skip
SIZES = {  # {our field: (the config's field, its default unless PUBLISHED has another, its valid values)}
    "vocabulary": ("vocab_size", 32000, None),
    "width": ("hidden_size", 4096, None),
    "depth": ("num_hidden_layers", 32, DEPTH),
    "heads": ("num_attention_heads", 32, None),
    "key_heads": ("num_key_value_heads", None, MAYBE_SIZE),
    "head_size": ("head_dim", None, MAYBE_SIZE),
    "hidden": ("intermediate_size", 11008, None),
    "epsilon": ("rms_norm_eps", 1e-6, schema.number(1e-12, 1)),
}


def _layer(module: DecoderEncoder) -> list[Row]:
    norms = {"norm_1": "input", "norm_2": "post_attention"}
    if module.gemma:
        norms = {
            "norm_1": "input",
            "after_1": "post_attention",
            "norm_2": "pre_feedforward",
            "after_2": "post_feedforward",
        }
    table = [Row(f"{theirs}_layernorm.weight", f"{ours}/scale") for ours, theirs in norms.items()]
    for name in ("query", "key", "value"):
        table.append(Row(f"self_attn.{name[0]}_proj.weight", f"attention/{name}/kernel", DENSE))
        table += [Row(f"self_attn.{name[0]}_proj.bias", f"attention/{name}/bias", VECTOR)] * module.biased
    if module.qk_norm:
        table += query_key_norms("self_attn.{1}_norm.weight", "attention")
    table.append(Row("self_attn.o_proj.weight", "attention/out/kernel", DENSE_OUT))
    table += side_by_side(("mlp.gate_proj", "mlp.up_proj"), "mlp/hidden", bias=False)
    return [*table, Row("mlp.down_proj.weight", "mlp/out/kernel", DENSE)]


def rows(module: DecoderEncoder, before: str) -> list[Row]:
    """The rows of the decoder under transformers' names; `before` is the prefix in the file of a larger model."""
    table = [Row("embed_tokens.weight", "tokens/embedding"), Row("norm.weight", "final_norm/scale")]
    table += layers(_layer(module), module.depth, "layers.", "layers/")
    return within(table, before)


def _turns(stated: Mapping[str, Any], theta: float) -> tuple[float, tuple[float, ...]]:
    """(base, scaling) of a table of rotary parameters, in the form of any version of transformers."""
    kind = next((kind for field in ("rope_type", "type") if (kind := stated.get(field)) is not None), "default")
    # In Qwen 2.5 VL and 3 VL, a token has three coordinates ("mrope"), which are equal for text.
    known = {"rope_type", "type", "rope_theta", "mrope_section", "mrope_interleaved", *LLAMA_3}
    if not isinstance(kind, str) or kind not in SCALINGS or stated.keys() - known:
        raise ValueError(
            f"rotary positions {str(dict(stated))[:200]} are not supported. Supported types: {', '.join(SCALINGS)}."
        )
    numbers: dict[str, Any] = {field: stated.get(field) for field in SCALINGS[kind]} | {
        "rope_theta": stated.get("rope_theta", theta)
    }
    for field, value in numbers.items():
        if why := schema.objection(field, value, THETA):
            raise ValueError(why)
    return float(numbers.pop("rope_theta")), tuple(map(float, numbers.values()))


def _rotary(known: Published) -> Group:
    """The fields of rotary positions: one table for all layers, or one for each kind of layer."""

    def read(values: dict[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
        theta, near, scaling, parameters = values.values()
        stated = (scaling if parameters is None else parameters) or {}
        if FAR in stated or NEAR in stated:
            for kind in stated.keys() & {FAR, NEAR}:
                if not isinstance(stated[kind], Mapping):
                    raise ValueError(f"rotary positions of {kind} = {limits.short(stated[kind])}. Valid: a table.")
            near, scaled = _turns(stated.get(NEAR, {}), near)
            if scaled:
                raise ValueError("scaled frequencies of layers with a window are not supported.")
            stated = stated.get(FAR, {})
        theta, scaling = _turns(stated, theta)
        return {"theta": theta, "scaling": scaling, "near_theta": float(near)}

    def write(module: DecoderEncoder) -> dict[str, Any]:
        kind = "linear" if len(module.scaling) == 1 else "llama3"
        scaling = {"rope_type": kind, **dict(zip(SCALINGS[kind], module.scaling))}
        near = module.near_theta if known.near_theta and module.near_theta else ABSENT
        return {
            "rope_theta": module.theta,
            "rope_scaling": scaling if module.scaling else ABSENT,
            "rope_local_base_freq": near,
        }

    return Group(
        {
            "rope_theta": (known.defaults.get("rope_theta", 10_000.0), THETA),
            "rope_local_base_freq": (known.near_theta, schema.number(0)),
            "rope_scaling": (None, TURNS),
            "rope_parameters": (None, TURNS),
        },
        read,
        write,
    )


def _windows(known: Published) -> Group:
    """The fields of layers with windowed attention; our field is empty if there are no such layers."""

    def read(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
        listed, window, *rule = values.values()
        near = tuple(kind == NEAR for kind in listed) if listed else known.near(*rule, ours["depth"])
        if listed and any(near) and known.near_fields is QWEN_NEAR and not (rule[0] and window):
            raise Refusal(
                f"{known.model_type}: layer_types lists {NEAR}, but use_sliding_window = {rule[0]} and "
                f"sliding_window = {window}. Valid: a window that is used, or layer_types without such layers"
            )
        return {"window": window, "near": near} if window and any(near) else {"near_theta": 0.0}

    def write(module: DecoderEncoder) -> dict[str, Any]:
        near = module.near or (False,) * module.depth
        listed = known.model_type != "mistral" and known.window
        return {
            "layer_types": [NEAR if one else FAR for one in near] if listed else ABSENT,
            "sliding_window": module.window or None,
            "use_sliding_window": any(near) if known.model_type.startswith("qwen") else ABSENT,
        }

    fields = {"layer_types": (None, LAYERS), "sliding_window": (known.window, MAYBE_SIZE), **known.near_fields}
    return Group(fields, read, write)


def _sizes(known: Published) -> list[Field]:
    """The fields of sizes; by default there are as many heads of keys as of queries, and heads divide the width."""
    reads = {
        "key_heads": lambda heads, ours: heads or ours["heads"],
        "head_size": lambda size, ours: size or ours["width"] // ours["heads"],
    }
    return [
        Field(theirs, ours, known.defaults.get(theirs, default), valid, reads.get(ours))
        for ours, (theirs, default, valid) in SIZES.items()
    ]


def _cap(known: Published) -> Field | Follows:
    """The field of the cap of the scores, which transformers' Gemma 3 has too but does not apply."""
    name = "attn_logit_softcapping"
    if name not in known.defaults:
        return Follows(name, None)
    return Field(
        name,
        "cap",
        known.defaults[name],
        MAYBE_NUMBER,
        read=lambda cap, ours: float(cap or 0),
        write=lambda module: module.cap or None,
    )


def _activation(known: Published) -> list[Field | Follows]:
    """The fields of the activation, and the fields that Gemma adds."""
    if not known.fixed.get("gemma"):
        return [Follows("hidden_act", "silu", silent=True)]
    return [
        Follows("hidden_activation", "gelu_pytorch_tanh"),
        Follows("hidden_act", "gelu_pytorch_tanh", optional=True, silent=True),
        _cap(known),
        Field("query_pre_attn_scalar", "score_size", 256, write=lambda module: module.score_size or module.head_size),
    ]


OTHERS = (
    "max_position_embeddings", "eos_token_id", "pretraining_tp", "final_logit_softcapping", "vision_config",
    "cache_implementation", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id",
    "vision_token_id",
)  # fmt: skip
CONFIGS = {
    name: FieldTable(
        name,
        DecoderEncoder,
        (
            *(
                Follows(switch, False, optional=True, silent=True)
                for switch in ("attention_bias", "mlp_bias", "use_bidirectional_attention")
            ),
            *_sizes(known),
            *_activation(known),
            _rotary(known),
            _windows(known),
        ),
        unread=unread(*OTHERS, model_type=known.model_type),
        required={
            "biased": False,
            "qk_norm": False,
            "gemma": False,
            "activation": "silu",
            "causal": True,
            **known.fixed,
        },
    )
    for name, known in PUBLISHED.items()
}


def build(name: str, config: Mapping[str, Any]) -> DecoderEncoder:
    """Our module for a config of transformers; for a model of pictures and text, the part that reads text."""
    return CONFIGS[name].build(config["text_config"] if isinstance(config.get("text_config"), Mapping) else config)


def describe(name: str, module: DecoderEncoder) -> dict[str, Any]:
    """The config of transformers for our module.

    Raises:
        Refusal: if no network of the class has the module's fields.
    """
    config = CONFIGS[name].describe(module)
    plain = {field: type(module).__dataclass_fields__[field].default for field in ("attention", "remat", "dtype")}
    if build(name, config) != module.clone(**plain):
        raise Refusal(f"{name}: no network of this class has these fields: {module}")
    return config


FAMILIES = tuple(
    Family(
        name=name,
        module=DecoderEncoder,
        build=functools.partial(build, name),
        describe=functools.partial(describe, name),
        example=lambda module: (array(1, 8, dtype=jnp.int32),),
        tables={layout: functools.partial(rows, before=before) for layout, before in BEFORE.items()},
        **STORED,
        # The head that predicts words, the part that reads pictures, and tables of rotary frequencies.
        ignored=(
            r"(language_model\.)?lm_head\.weight",
            r"(model\.)?(visual|vision_tower|multi_modal_projector)\..*",
            r".*rotary_emb\.inv_freq",
        ),
        also={container: {} for container in known.containers},
    )
    for name, known in PUBLISHED.items()
)
