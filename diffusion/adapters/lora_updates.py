"""An adapter of ours as updates of the layers that a LoRA file names, for writing."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from diffusion.adapters import lora, lora_kinds
from diffusion.adapters.lora_layers import Place, layers_of
from diffusion.models.interchange import families


class Update(NamedTuple):
    """The update of one of their layers by an adapter.

    Attributes:
        pairs: (A [r, in, ..], B [out, r, ..]), one or, of a LoHa, two.
        magnitude: [out] of a DoRA; None without one.
        scale: alpha / r.
    """

    pairs: tuple[lora_kinds.Pair, ...]
    magnitude: np.ndarray | None
    scale: float


def their_layers(
    module: nn.Module, adapter: Mapping[str, Any], scales: Mapping[str, float] | float, layout: str
) -> dict[str, Update]:
    """The updates of an adapter, by the layers of their library in a layout that it changes."""
    family = families.family_of(module)
    table = layers_of(module, (layout,))
    fused = layout != family.first_layout
    updates_of_layer: dict[str, list[Update]] = {}
    for name, factors in lora.places_of(adapter).items():
        if "input_magnitude" in factors or "down" not in factors:
            what = "magnitudes of its inputs" if "down" in factors else f"a {next(iter(factors))} of its values"
            raise ValueError(
                f"{name} has {what}, which the LoRA formats cannot hold. Merge the adapter, and write the network"
            )
        path, at = lora.parsed(name)
        scale = scales[name] if isinstance(scales, Mapping) else float(scales)
        covered = False
        for layer, places in table.items():
            for place in (place for place in places if place.row.ours == path):
                selected = _selected(factors, at, place, fused)
                if selected is None:
                    continue
                covered = True
                how = place.how()
                parted = place.row.rows is not None
                if how is None or (layer in updates_of_layer and not fused and not parted):
                    raise ValueError(
                        f"{name} and others form one layer {layer} of {family.name} with a single factor A, and "
                        "cannot be written as separate updates."
                    )
                if parted and ("down_2" in factors or "magnitude" in factors):
                    raise ValueError(
                        f"{name} covers some rows of {layer} of {family.name}, and the formats cannot hold a DoRA or "
                        "LoHa of some rows. Merge the adapter, and write the network"
                    )
                down, up = how.to_theirs(*selected)
                pairs = [(down, _among_rows(up, place))]
                if "down_2" in factors:
                    second = {"down": factors["down_2"], "up": factors["up_2"]}
                    pairs.append(how.to_theirs(*(_selected(second, at, place, fused) or ())))
                magnitude = None
                if "magnitude" in factors:  # a magnitude has the axes of a B of rank 1
                    axes = len(place.leaf) - sum(isinstance(index, int) for index in at)
                    layers, _ = lora.axes(factors["down"], factors["up"], axes)
                    as_up = np.expand_dims(np.asarray(factors["magnitude"]), layers)
                    magnitude_factors = {"down": np.asarray(factors["down"])[..., :1], "up": as_up}
                    magnitude = how.to_theirs(*(_selected(magnitude_factors, at, place, fused) or ()))[1][:, 0]
                updates_of_layer.setdefault(layer, []).append(Update(tuple(pairs), magnitude, scale))
        if not covered:
            raise ValueError(f"{name} is not a layer of {family.name}, so it cannot be written.")
    return {
        layer: _as_one(updates, table[layer][0].theirs, f"{layer} of {family.name}")
        for layer, updates in updates_of_layer.items()
    }


def _as_one(updates: Sequence[Update], shape: tuple[int, ...], name: str) -> Update:
    """The updates of a layer as one, whose factors have the form of the layer's kernel in the file.

    Args:
        updates: the updates, at least one.
        shape: shape of the layer's kernel in the file, [out, in, ..].
        name: the layer's name in messages.

    Raises:
        ValueError: for several updates of which one is no plain LoRA.
    """
    pairs, magnitude, scale = updates[0]
    if len(updates) > 1:
        if any(len(update.pairs) > 1 or update.magnitude is not None for update in updates):
            raise ValueError(
                f'{name} holds several DoRA or LoHa updates, which cannot be written as one. Valid: layout = "peft"'
            )
        down, up, scale = _joined([(*update.pairs[0], update.scale) for update in updates])
        pairs = ((down, up),)
    # B of a convolution is a convolution of one pixel.
    ones = [1] * (len(shape) - 2)
    shaped = tuple((down.reshape(-1, *shape[1:]), up.reshape(*up.shape, *ones)) for down, up in pairs)
    return Update(shaped, magnitude, scale)


def _among_rows(up: np.ndarray, place: Place) -> np.ndarray:
    """B of a layer, [out, r], from B of the rows of a place; zeros in the other rows."""
    if place.row.rows is None:
        return up
    full = np.zeros((place.theirs[0], *up.shape[1:]), up.dtype)
    full[slice(*place.row.rows)] = up
    return full


def _joined(updates: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> tuple[np.ndarray, np.ndarray, float]:
    """Several updates of one layer as one: their factors side by side, or B summed where they have one A."""
    down, _, scale = updates[0]
    if any(other != scale for _, _, other in updates):
        updates = [(a, b * np.float32(scale_of_update), 1.0) for a, b, scale_of_update in updates]
        scale = 1.0
    downs = [a for a, _, _ in updates]
    ups = [b for _, b, _ in updates]
    if all(np.array_equal(a, down) for a in downs):
        return down, np.sum(ups, axis=0), scale
    return np.concatenate(downs), np.concatenate(ups, axis=1), scale


def _selected(factors: Mapping[str, Any], at: tuple, place: Place, fused: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """The factors of a place's part, taken from the factors of the part `at` of its leaf; None if they do not touch it.

    With `fused` they may cover some of the part's outputs, and are zero for the others.
    """
    all_axes = lambda index: [*index, *[slice(None)] * (len(place.leaf) - len(index))]
    mine = all_axes(at)
    theirs = all_axes(place.row.at)
    down = np.asarray(factors["down"])
    up = np.asarray(factors["up"])
    if fused:
        mine, up = _filled(mine, theirs, place.leaf, down, up)
    index, dropped = [], 0
    for index_of_update, other in zip(mine, theirs):
        if index_of_update == slice(None):
            index.append(other)
        elif index_of_update == other:
            index += [] if isinstance(index_of_update, int) else [slice(None)]
            dropped += isinstance(index_of_update, int)
        else:
            return None
    layers, inner = lora.axes(down, up, len(place.leaf) - dropped)
    return down[tuple(index[:inner])], up[(*index[:layers], slice(None), *index[inner:])]


def _filled(
    mine: list, theirs: list, leaf: tuple[int, ...], down: np.ndarray, up: np.ndarray
) -> tuple[list, np.ndarray]:
    """The index and the up of factors, with zeros for outputs of the part that the factors do not cover."""
    stays = [axis for axis, index in enumerate(mine) if not isinstance(index, int)]
    outputs = range(stays[down.ndim - 2] + 1, len(leaf))
    added = [axis for axis in outputs if theirs[axis] == slice(None) != mine[axis]]
    axes = [axis for axis in outputs if axis in added or axis in stays]
    lead = up.ndim - len([axis for axis in outputs if axis in stays])
    sizes = iter(up.shape)
    stack = [next(sizes) for _ in range(lead)]
    size = {axis: next(sizes) for axis in axes if axis in stays}
    filled = np.zeros((*stack, *[leaf[axis] if axis in added else size[axis] for axis in axes]), up.dtype)
    filled[(..., *[mine[axis] if axis in added else slice(None) for axis in axes])] = up
    return [slice(None) if axis in added else index for axis, index in enumerate(mine)], filled
