"""Doors into scanned layers: what a condition may ask of single layers and single examples.

A condition is the labels `[B]` alone, or a dict with them under "label" and any of these beside, in which row b is
about example b and column l about layer l:

| door       | `[B, L]` | what the layer does where it is open                                                        |
|------------|----------|---------------------------------------------------------------------------------------------|
| "skip"     | Bool     | nothing: its output is its input (skip-layer guidance)                                      |
| "identity" | Bool     | every token attends to itself alone (perturbed-attention guidance)                          |
| "borrow"   | int      | example b attends with the maps of example b + borrow, 0 its own (prompt-to-prompt editing) |

A door belongs to the example, so that `guidance.together` runs guided and impaired branches in one call; an offset
stays right when conditions are concatenated. Conditions that are concatenated have the same doors, closed where they
do nothing: `{"label": labels, "skip": doors.mask(B, L, ())}`. Without doors the program is that of a network that
has none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

KINDS = {"skip": jnp.bool_, "identity": jnp.bool_, "borrow": jnp.integer}


def mask(batch: int, depth: int, layers: Sequence[int]) -> np.ndarray:
    """Bool `[batch, depth]`, True at the layers.

    Args:
        batch: number of examples B.
        depth: number of layers L.
        layers: their numbers, 0 .. depth - 1, from the input; () for a closed door.

    Raises:
        ValueError: if a layer is not there.
    """
    outside = [layer for layer in layers if not 0 <= layer < depth]
    if outside:
        raise ValueError(f"layer {outside[0]} is not there: valid are 0 .. {depth - 1}")
    return np.tile(np.isin(np.arange(depth), list(layers)), (batch, 1))


def parted(condition: Any, batch: int, depth: int) -> tuple[Any, dict[str, jax.Array]]:
    """Parts a condition into the label (or None) and its doors, each turned to `[L, B]` for the scan over layers.

    Raises:
        ValueError: for an unknown door, a shape that is not [B, L], or a dtype that is not the door's.
    """
    if not isinstance(condition, Mapping):
        return condition, {}
    doors = {name: jnp.asarray(door) for name, door in condition.items() if name != "label"}
    for name, door in doors.items():
        if name not in KINDS:
            raise ValueError(
                f"the condition has {name!r}, which is neither 'label' nor a door; doors are "
                f"{', '.join(map(repr, KINDS))}"
            )
        if door.shape != (batch, depth) or not jnp.issubdtype(door.dtype, KINDS[name]):
            raise ValueError(
                f"the door {name!r} has shape {door.shape} and dtype {door.dtype}; it takes [B, L] = "
                f"({batch}, {depth}), {KINDS[name].__name__.rstrip('_')}, see diffusion.models.layers.layer_masks"
            )
    return condition.get("label"), {name: door.T for name, door in doors.items()}
