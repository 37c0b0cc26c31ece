"""The transformer of symbols by the names of MDLM (models/dit.py) and SEDD (model/transformer.py), their authors' code.

Both have one architecture. The sizes are read from the shapes of the tensors, all but the number of heads, whose
features are 64 in the published networks. MDLM's files have the network's names after the prefix "backbone.".

- SEDD's network receives -log alpha(t) as its clock, and returns scaled ratios: `discrete.from_scaled_ratios`. - MDLM's
returns logits, `discrete.from_logits`. Its published networks are not conditioned on the time: their clock is
  0.
"""

import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion.io.leaf_names import leaves_of
from diffusion.models.interchange import folder_writing, folders, tensor_files
from diffusion.models.interchange.attention_layouts import cut_heads, rotary
from diffusion.models.interchange.family import Family, array
from diffusion.models.interchange.rows import DENSE_OUT, Mismatch, Row, layers, linear, mlp
from diffusion.models.interchange.tensor_files import Tensors
from diffusion.models.symbol_transformer import SymbolTransformer

HEAD = 64  # features of a head of the published networks
PREFIX = "backbone."
BUFFERS = (r"rotary_emb\.inv_freq",)


def load(path: str | pathlib.Path, heads: int = 0) -> tuple[SymbolTransformer, dict[str, Any]]:
    """The network of a file of MDLM or SEDD, and its variables.

    Args:
        path: a .safetensors file, a file of torch.save, or a folder that has one.
        heads: number of attention heads; 0: as many as have 64 features.

    Returns:
        (the module, {"params": its parameters, float32}).

    Raises:
        Mismatch: if the file holds another network; it names the tensors.
    """
    tensors = tensor_files.open_tensors(path)
    if any(name.startswith(PREFIX) for name in tensors.shapes):
        tensors = tensors.under(PREFIX)
    tensors = tensors.without(BUFFERS)
    module = _network(tensors, heads)
    return module, {"params": folders.read(folders.Found(FAMILY, module, "original", tensors))}


def save(folder: str | pathlib.Path, module: SymbolTransformer, params: Any) -> None:
    """Writes model.safetensors with their names, which `load` reads.

    Args:
        folder: an existing folder.
        module: the network, which has a clock and a last layer of its own.
        params: its parameters.
    """
    shapes = folders.expected_of(FAMILY, module, "original", leaves_of(params))
    written = folder_writing.write(FAMILY, module, "original", params)
    tensor_files.write_tensors(pathlib.Path(folder), "model", shapes, "float32", written)


def _network(tensors: Tensors, heads: int) -> SymbolTransformer:
    """The module by the shapes of its tensors."""
    shapes = tensors.shapes
    needed = ("vocab_embed.embedding", "sigma_map.mlp.2.weight", "blocks.0.mlp.0.weight")
    if missing := [name for name in needed if len(shapes.get(name, ())) != 2]:
        raise Mismatch(f"{tensors.path} is not a network of MDLM or SEDD: it has no matrix {', '.join(missing)}.")
    size, width = shapes[needed[0]]
    hidden = shapes[needed[2]][0]
    depth = 1 + max(int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name)))
    return SymbolTransformer(
        size,
        width,
        depth,
        heads or max(width // HEAD, 1),
        condition_width=shapes[needed[1]][0],
        mlp_ratio=hidden / width,
    )


def _order(size: int) -> np.ndarray:
    """Their feature for each feature of our head: theirs pair k and k + size / 2, which turn by the k-th frequency."""
    half, part, pair = np.meshgrid(np.arange(2), np.arange(2), np.arange(size // 4), indexing="ij")
    return (part * (size // 2) + 2 * pair + half).reshape(-1)


def _rows(module: SymbolTransformer) -> list[Row]:
    width = module.width
    table = [
        Row("vocab_embed.embedding", "table"),
        *mlp("sigma_map.mlp.0", "sigma_map.mlp.2", "condition/timestep_embedding/"),
        Row("output_layer.norm_final.weight", "final_norm/scale"),
        *linear("output_layer.adaLN_modulation", "final_modulation/dense"),
        *linear("output_layer.linear", "final"),
    ]
    block = [
        Row("norm1.weight", "attention_norm/scale"),
        Row("norm2.weight", "mlp_norm/scale"),
        *linear("adaLN_modulation", "modulation/dense"),
        *cut_heads("attn_qkv", width, rotary(_order(width // module.heads)), bias=False),
        *linear("attn_out", "attention/out", DENSE_OUT, bias=False),
        *mlp("mlp.0", "mlp.2", "mlp/"),
    ]
    return table + layers(block, module.depth, "blocks.", "blocks/")


def _no_config(config: Any) -> Any:
    raise Mismatch("networks of MDLM and SEDD have no config; read them by `symbol_tables.load`.")


FAMILY = Family(
    "DDiT",
    SymbolTransformer,
    _no_config,
    _no_config,
    lambda module: (array(1, 8, dtype=jnp.int32), array(1)),
    {"original": _rows},
    library="",
)
