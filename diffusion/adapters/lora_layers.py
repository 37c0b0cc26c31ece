"""Layers of a LoRA file as parts of our parameters: the part that a layer changes, and the adapter of several parts."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.adapters import lora, lora_kinds
from diffusion.adapters.layer_axes import Separation, separation
from diffusion.io.leaf_names import nested
from diffusion.models.interchange import families, folders, rows
from diffusion.models.interchange.rows import Mismatch, Row


class Place(NamedTuple):
    """The part of our parameters that corresponds to a tensor of another library, or to some rows of the tensor.

    Attributes:
        row: the row of the table that pairs the tensor with our leaf.
        theirs: the shape of the complete tensor.
        leaf: the shape of our leaf.
    """

    row: Row
    theirs: tuple[int, ...]
    leaf: tuple[int, ...]

    def how(self) -> Separation | None:
        """The mapping of inputs and outputs from the tensor to our part; None if the layout mixes them."""
        rows_of_it = self.theirs[0] if self.row.rows is None else self.row.rows[1] - self.row.rows[0]
        ours = rows.part_shape(self.leaf, self.row.at)
        return separation(self.row.layout, (rows_of_it, *self.theirs[1:]), ours)


class Part(NamedTuple):
    """The factors of an adapter, and the part of a leaf that they update.

    Attributes:
        path: the path of the leaf.
        at: the index of the part in the leaf.
        leaf: the shape of the leaf.
        factors: the factors by name, such as "down" and "up".
        scale: the scale of the update.
    """

    path: str
    at: tuple
    leaf: tuple[int, ...]
    factors: dict[str, np.ndarray]
    scale: float


@functools.lru_cache(maxsize=16)
def layers_of(module: nn.Module, layouts: tuple[str, ...] = ()) -> dict[str, list[Place]]:
    """The layers of a network that have a matrix, by their names in `layouts`, or in all layouts if there are none."""
    return {
        name.removesuffix(".weight"): places
        for name, places in tensors_of(module, layouts).items()
        if name.endswith(".weight") and len(places[0].theirs) >= 2
    }


@functools.lru_cache(maxsize=16)
def tensors_of(module: nn.Module, layouts: tuple[str, ...] = ()) -> dict[str, list[Place]]:
    """The tensors of a network, by their names in `layouts`, or in all layouts if there are none."""
    same_class = lambda known: [family for family in known if type(module) is family.module]
    # Flux and Chroma share a class. A module that neither family describes gets the layers of both.
    families_of_module = same_class(families.describing(module)) or same_class(families.FAMILIES.values())
    tensors: dict[str, list[Place]] = {}
    leaves = folders.leaves_of(folders.shapes_of(families_of_module[0], module)) if families_of_module else {}
    for family in families_of_module:
        for layout, table in family.tables.items():
            if layouts and layout not in layouts:
                continue
            all_rows = table(module)
            shapes = rows.their_shapes(all_rows, leaves)
            places: dict[str, list[Place]] = {}
            for row in all_rows:
                for name in (row.theirs, *row.copies):
                    places.setdefault(name, []).append(Place(row, shapes[row.theirs], leaves[row.ours].shape))
            tensors = places | tensors
    return tensors


def parts_of(
    places: Sequence[Place],
    pairs: Sequence[lora_kinds.Pair],
    magnitude: tuple[str, np.ndarray] | None,
    scale: float,
    what: str,
) -> list[Part]:
    """The factors of a layer of another library as parts of our leaves.

    Args:
        places: the parts that correspond to the layer's tensor.
        pairs: the factors (A [r, in, ..], B [out, r, ..]): one pair, or two whose products are multiplied (LoHa, LoKr).
        magnitude: the magnitudes of a DoRA, ("outputs" or "inputs", array); None without magnitudes.
        scale: the scale of the update.
        what: the file and the layer, for messages.

    Raises:
        Mismatch: if our leaf separates inputs and outputs in another way than the layer.
    """
    parts = []
    for place in places:
        how = place.how()
        if how is None:
            raise Mismatch(
                f"{what}: {place.row.ours} of this library separates inputs and outputs in another way, so a LoRA of "
                "this layer is not supported."
            )
        rows_of_it = slice(*place.row.rows) if place.row.rows else slice(None)
        factors: dict[str, np.ndarray] = {}
        for names, (down, up) in zip((("down", "up"), ("down_2", "up_2")), pairs):
            factors |= zip(names, how.to_ours(down, up[rows_of_it]))
        if magnitude and magnitude[0] == "outputs":
            factors["magnitude"] = how.outputs_to_ours(magnitude[1][rows_of_it])
        elif magnitude:
            ours = how.inputs_to_ours(magnitude[1], place.theirs)
            if ours is None or place.row.rows:
                raise Mismatch(
                    f"{what}: its magnitudes are norms over the outputs, [1, in, ..], which {place.row.ours} of this "
                    "library splits; a DoRA of this layer is not supported."
                )
            factors["input_magnitude"] = ours
        parts.append(Part(place.row.ours, place.row.at, place.leaf, factors, scale))
    return parts


def changed_parts(places: Sequence[Place], kind: str, tensor: np.ndarray, scale: float, what: str) -> list[Part]:
    """A complete tensor of another library, split into parts of our leaves.

    Args:
        places: the parts that correspond to the tensor.
        kind: "difference" if the values are added, or "whole" if they replace our values.
        tensor: the values; axes of length 1 are ignored when shapes are compared.
        scale: the scale of the change.
        what: the file and the tensor, for the message.

    Raises:
        Mismatch: if the tensor has another shape than the other library's.
    """
    theirs = places[0].theirs
    if [size for size in tensor.shape if size > 1] != [size for size in theirs if size > 1]:
        raise Mismatch(f"{what} has the shape {list(tensor.shape)}. Valid: {list(theirs)}.")
    parts = []
    for place in places:
        chosen = tensor.reshape(theirs)[slice(*place.row.rows) if place.row.rows else slice(None)]
        ours = np.asarray(place.row.layout.to_ours(chosen, rows.part_shape(place.leaf, place.row.at)))
        parts.append(Part(place.row.ours, place.row.at, place.leaf, {kind: ours}, scale))
    return parts


def stacked(parts: Sequence[Part]) -> tuple[dict[str, Any], dict[str, float]]:
    """(the adapter of some parts, its scales); if the parts cover all layers of a scan, the adapter stacks them."""
    groups: dict[tuple, list[Part]] = {}
    for part in parts:
        layer = bool(part.at) and isinstance(part.at[0], int)  # the first axis of a kernel's inputs is never indexed so
        shapes = tuple((name, array.shape) for name, array in part.factors.items())
        alike = (part.path, layer, str(part.at[1:] if layer else part.at), shapes, part.scale)
        groups.setdefault(alike, []).append(part)
    adapter, scale = {}, {}

    def put(path, at, factors, its_scale):
        while at and at[-1] == slice(None):
            at = at[:-1]
        place = lora.written(path, at)
        adapter[place], scale[place] = factors, its_scale

    for (path, layer, *_), group in groups.items():
        if layer and sorted(part.at[0] for part in group) == list(range(group[0].leaf[0])):
            group = sorted(group, key=lambda part: part.at[0])
            at = (slice(None), *group[0].at[1:])
            stacked = {name: _stack([part.factors[name] for part in group]) for name in group[0].factors}
            put(path, at, stacked, group[0].scale)
        else:
            for part in group:
                put(part.path, part.at, part.factors, part.scale)
    return nested(adapter), scale


def _stack(arrays: Sequence[Any]) -> Any:
    return (jnp if any(isinstance(array, jax.Array) for array in arrays) else np).stack(arrays)
