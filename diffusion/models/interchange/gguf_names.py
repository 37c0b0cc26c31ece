"""llama.cpp's names of the tensors of text encoders in GGUF files, as transformers names them, and what it changes.

| model             | name in GGUF            | transformers' name                             | changed               |
|-------------------|-------------------------|------------------------------------------------|-----------------------|
| T5, umT5          | enc.blk.3.attn_q.weight | encoder.block.3.layer.0.SelfAttention.q.weight | nothing               |
| Qwen 2 to 3 VL    | blk.3.attn_q.weight     | model.layers.3.self_attn.q_proj.weight         | nothing               |
| Llama, Mistral    | the same                | the same                                       | order of q and k rows |
| Gemma 2, 3        | blk.3.attn_norm.weight  | model.layers.3.input_layernorm.weight          | norms' scales, by + 1 |

llama.cpp turns neighbouring rows of q and k together in a Llama, and transformers rows that lie half a head apart.

Reference: llama.cpp, `gguf-py/gguf/tensor_mapping.py` and `convert_hf_to_gguf.py`.
"""

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from diffusion.io import limits

LAYER = re.compile(r"enc\.blk\.(\d+)\.(\w+)\.weight")
PARTS = {
    "attn_norm": "layer.0.layer_norm",
    **{f"attn_{part}": f"layer.0.SelfAttention.{part}" for part in "qkvo"},
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",  # wi where there is no gate
    "ffn_down": "layer.1.DenseReluDense.wo",
}
ENDS = {"token_embd.weight": "shared.weight", "enc.output_norm.weight": "encoder.final_layer_norm.weight"}
DECODER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
DECODER_PARTS = {
    "attn_norm": "input_layernorm",
    **{f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"},
    **{f"attn_{part}_norm": f"self_attn.{part}_norm" for part in "qk"},
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    **{f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}
GEMMA_PARTS = {
    **DECODER_PARTS,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
DECODER_ENDS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "rope_freqs.weight": "",  # of Llama 3.1; config.json states them
}
# llama.cpp's architectures
PLAIN, PAIRED, GEMMA = ("qwen2", "qwen2vl", "qwen3", "qwen3vl"), ("llama",), ("gemma2", "gemma3")


class Meaning(NamedTuple):
    """What a tensor of a file is.

    Attributes:
        name: its name by transformers; "" for one that no network reads.
        heads: number of heads whose rows `paired_halves` brings into transformers' order; 0 where they already have it.
        added: number that was added to it.
    """

    name: str
    heads: int = 0
    added: int = 0


def paired_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * size, ...] in the order of transformers, in which the two of a pair lie half a head apart."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def meanings(names: Iterable[str], fields: Mapping[str, tuple], path: pathlib.Path) -> dict[str, Meaning]:
    """What each tensor of a file is: a text encoder's by llama.cpp's names, or another network's by its own.

    Args:
        names: the names in the file.
        fields: the numbers in its header, see `gguf_header.Header`.
        path: the file, for messages.

    Raises:
        limits.Refused: for a language model of an architecture that is not supported, or a tensor that it does not
            have.
    """
    names = list(names)
    if decoder := next(filter(DECODER.match, names), ""):
        return _of_decoder(names, fields, decoder, path)
    layers = {name: match for name in names if (match := LAYER.fullmatch(name))}
    if not layers:
        return {name: Meaning(name) for name in names}
    gated = any(match[2] == "ffn_gate" for match in layers.values())
    parts = PARTS if gated else {**PARTS, "ffn_up": "layer.1.DenseReluDense.wi"}
    renamed = {
        name: f"encoder.block.{match[1]}.{parts[match[2]]}.weight"
        for name, match in layers.items()
        if match[2] in parts
    }
    return {name: Meaning(renamed.get(name) or ENDS.get(name, name)) for name in names}


def _of_decoder(names: list[str], fields: Mapping[str, tuple], example: str, path: pathlib.Path) -> dict[str, Meaning]:
    heads = ".attention.head_count"
    kinds = [field.removesuffix(heads) for field in fields if field.endswith(heads)]
    known = (*PLAIN, *PAIRED, *GEMMA)
    if len(kinds) != 1 or kinds[0] not in known:
        raise limits.Refused(
            f"{path}: {example} is a tensor of a language model in llama.cpp's naming, of the architecture "
            f"{limits.short(' and '.join(kinds) or 'of no name')}. Valid: {', '.join(known)}, or its safetensors files."
        )
    (kind,) = kinds
    count = lambda field, otherwise: int(fields.get(f"{kind}.attention.{field}", (otherwise,))[0])
    queries = count("head_count", 1)
    heads = {"attn_q": queries, "attn_k": count("head_count_kv", queries)} if kind in PAIRED else {}
    parts = GEMMA_PARTS if kind in GEMMA else DECODER_PARTS
    result = {}
    for name in names:
        match = DECODER.fullmatch(name)
        part = match[2] if match else ""
        if name not in DECODER_ENDS and part not in parts:
            raise limits.Refused(f"{path}: {limits.short(name)} is no tensor of a {kind} model that is supported.")
        theirs = f"model.layers.{match[1]}.{parts[part]}.{match[3]}" if match else DECODER_ENDS[name]
        added = kind in GEMMA and name.endswith("norm.weight")
        result[name] = Meaning(theirs, heads.get(part, 0), int(added))
    return result
