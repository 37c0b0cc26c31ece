"""llama.cpp's names of the tensors of text encoders in GGUF files, as transformers names them.

The encoder of a T5 or umT5 has the same arrays under other names: enc.blk.3.attn_q.weight is
encoder.block.3.layer.0.SelfAttention.q.weight. Models of a decoder alone (blk.3.attn_q.weight) are refused: llama.cpp
permutes the rows of queries and keys of some such models, and the names do not say of which ones.
"""

__all__ = ["transformers_names"]

import pathlib
import re
from collections.abc import Iterable

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
DECODER = re.compile(r"blk\.\d+\.")


def transformers_names(names: Iterable[str], path: pathlib.Path) -> dict[str, str]:
    """The names of a file's tensors by transformers, for an encoder of llama.cpp's names; else the names as they are.

    Args:
        names: the names in the file.
        path: the file, for messages.

    Raises:
        limits.Refused: for a model of a decoder alone.
    """
    names = list(names)
    if decoder := next(filter(DECODER.match, names), ""):
        raise limits.Refused(
            f"{path}: {decoder} is a tensor of a language model in llama.cpp's naming, which is not supported; use "
            "its safetensors files. Valid in GGUF: denoisers, and the encoders of T5 and umT5."
        )
    layers = {name: match for name in names if (match := LAYER.fullmatch(name))}
    if not layers:
        return {name: name for name in names}
    gated = any(match[2] == "ffn_gate" for match in layers.values())
    parts = PARTS if gated else {**PARTS, "ffn_up": "layer.1.DenseReluDense.wi"}
    renamed = {
        name: f"encoder.block.{match[1]}.{parts[match[2]]}.weight"
        for name, match in layers.items()
        if match[2] in parts
    }
    return {name: renamed.get(name) or ENDS.get(name, name) for name in names}
