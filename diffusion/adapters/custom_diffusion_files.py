"""diffusers' small files of custom diffusion: attention layers that replace the model's.

| tensor, behind the name of an attention                                     | in place of                      |
|-----------------------------------------------------------------------------|----------------------------------|
| `processor.to_k_custom_diffusion.weight`, `to_v_custom_diffusion`           | `to_k.weight`, `to_v.weight`     |
| `processor.to_q_custom_diffusion.weight`, `to_out_custom_diffusion.0.weight`| `to_q.weight`, `to_out.0.weight` |
| `processor.to_out_custom_diffusion.0.bias`                                  | `to_out.0.bias`                  |
| `processor`, a tensor without numbers                                       | nothing: the attention stays     |

Without the last kind, diffusers refuses a file that does not have all attentions; its own .bin files have empty tables
there. A layer V in place of W is an adapter of `lora` with the update V - W, so that it has a weight and an interval.
"""

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from diffusion.adapters.lora_layers import Part, stacked
from diffusion.io import safetensors_files
from diffusion.io.leaf_names import leaves_of
from diffusion.models.interchange import families, folders, rows
from diffusion.models.interchange.rows import Mismatch, Row
from diffusion.models.interchange.tensor_files import Tensors

FILE = "pytorch_custom_diffusion_weights.safetensors"
STAYS = re.compile(r"(.+)\.processor")
NAME = re.compile(r"(.+)\.processor\.(to_[kvq]|to_out)_custom_diffusion\.((?:0\.)?(?:weight|bias))")
KEYS = frozenset({"to_k.weight", "to_v.weight"})
WHOLE = (KEYS, KEYS | {"to_q.weight", "to_out.0.weight", "to_out.0.bias"})  # what diffusers opens of an attention


def recognised(names: Iterable[str]) -> bool:
    """Whether tensors with these names come from a file of custom diffusion."""
    return any(NAME.fullmatch(name) for name in names)


def load(tensors: Tensors, module: nn.Module) -> tuple[dict[str, Any], dict[str, float]]:
    """The adapter of a file and the scale of each place, as `lora.merge` takes them.

    Args:
        tensors: the tensors of the file.
        module: the denoiser.

    Raises:
        Mismatch: for a tensor without a layer in the denoiser, or with another shape than the layer has, since the file
            belongs to another base; or for keys without values. The message names the first.
        limits.Refused: for a file that is damaged or hostile.
    """
    table = _table(module)
    leaves = folders.leaves_of(folders.shapes_of(families.family_of(module), module))
    layers_of_attention: dict[str, set[str]] = {}
    parts = []
    for name in tensors.shapes:
        place = NAME.fullmatch(name)
        stays = None if place else STAYS.fullmatch(name)
        if stays and f"{stays[1]}.to_k.weight" in table and 0 in tensors.shapes[name]:
            continue
        theirs = f"{place[1]}.{place[2]}.{place[3]}" if place else name
        if theirs not in table:
            raise Mismatch(f"{tensors.path} belongs to another base: this model has no layer for {name}.")
        its_rows = table[theirs]
        shape = rows.their_shapes(its_rows, leaves)[theirs]
        if tuple(tensors.shapes[name]) != shape:
            raise Mismatch(
                f"{tensors.path} belongs to another base: {name} has the shape {list(tensors.shapes[name])}, and "
                f"{its_rows[0].ours} of this model takes {list(shape)}."
            )
        tensor = tensors.read(name).astype(np.float32)
        for row in its_rows:
            leaf = leaves[row.ours].shape
            mine = tensor[slice(*row.rows)] if row.rows else tensor
            ours = row.layout.to_ours(mine, rows.part_shape(leaf, row.at))
            parts.append(Part(row.ours, row.at, leaf, {"whole": np.asarray(ours)}, 1.0))
        layers_of_attention.setdefault(theirs.rpartition(".to_")[0], set()).add(f"to_{theirs.rpartition('.to_')[2]}")
    for attention, layers in layers_of_attention.items():
        if missing := sorted(KEYS - layers):
            raise Mismatch(
                f"{tensors.path}: {attention} has {', '.join(sorted(layers))}, but {missing[0]} is missing. Valid: "
                "files with both keys and values."
            )
    return stacked(parts)


def tensors_of(module: nn.Module, layers: Any) -> dict[str, np.ndarray] | None:
    """The tensors of a file; None if it cannot hold these layers: layers other than keys and values, or parts.

    Args:
        module: the denoiser.
        layers: the changed leaves of its parameters, nested as in the parameters.
    """
    leaves = leaves_of(layers)
    table = _table(module)
    held: dict[str, np.ndarray] = {}
    kinds_of_attention: dict[str, set[str]] = {}
    for theirs, its_rows in table.items():
        mine = [row for row in its_rows if row.ours in leaves]
        if not mine:
            continue
        attention, _, layer = theirs.rpartition(".to_")
        kinds_of_attention.setdefault(attention, set()).add(f"to_{layer}")
        arrays = [row.layout.to_theirs(np.asarray(leaves[row.ours], np.float32)[row.at]) for row in mine]
        part, _, end = layer.partition(".")
        held[f"{attention}.processor.to_{part}_custom_diffusion.{end}"] = np.concatenate(arrays)
    if not all(kinds in WHOLE for kinds in kinds_of_attention.values()):
        return None
    attentions = [theirs.removesuffix(".to_k.weight") for theirs in table if theirs.endswith(".to_k.weight")]
    stay = {f"{name}.processor": np.empty(0, np.float32) for name in attentions if name not in kinds_of_attention}
    return {**held, **stay}


def save(folder: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> pathlib.Path:
    """Writes the tensors of `tensors_of` under the name that diffusers gives them."""
    path = folder / FILE
    safetensors_files.save(path, tensors, metadata)
    return path


def _table(module: nn.Module) -> dict[str, list[Row]]:
    """The rows of each tensor of a denoiser, by the tensor's name in the denoiser's own library."""
    family = families.family_of(module)
    table: dict[str, list[Row]] = {}
    for row in folders.rows_of(family, module, family.first_layout):
        for name in (row.theirs, *row.copies):
            table.setdefault(name, []).append(row)
    return table
