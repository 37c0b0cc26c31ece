"""Layer masks: the entries of a condition that change single layers for single examples.

A condition is the labels `[B]`, or a dict of the entry "label" and any of these masks. Row b of a mask is for example
b, and column l is for layer l:

| mask       | `[B, L]` | effect on the layer where the mask is True, or not 0                                        |
|------------|----------|---------------------------------------------------------------------------------------------|
| "skip"     | Bool     | the layer's output is its input (skip-layer guidance), to which a residual is still added   |
| "identity" | Bool     | every token attends only to itself (perturbed-attention guidance)                           |
| "borrow"   | int      | example b attends by the attention maps of example b + borrow (prompt-to-prompt editing)    |

A mask belongs to the example, so that `guidance.together` can run guided and impaired branches in one call; "borrow" is
an offset, which stays right when conditions are concatenated. Concatenated conditions need the same masks, which are
False where they have no effect: `{"label": labels, "skip": layer_masks.mask(B, L, ())}`. Without masks, the compiled
program contains no operations for them.

Reference: Ahn et al. 2024, "Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance"; Hertz et al. 2022,
"Prompt-to-Prompt Image Editing with Cross Attention Control".
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
        layers: indices of the masked layers, 0 .. depth - 1, counted from the network's input; () for a mask that is
            False everywhere.

    Raises:
        ValueError: if a layer does not exist.
    """
    outside = [layer for layer in layers if not 0 <= layer < depth]
    if outside:
        raise ValueError(f"layer {outside[0]} does not exist. Valid: 0 .. {depth - 1}")
    return np.tile(np.isin(np.arange(depth), list(layers)), (batch, 1))


def parted(condition: Any, batch: int, depth: int) -> tuple[Any, dict[str, jax.Array]]:
    """Separates a condition into the label (or None) and its masks, each as `[L, B]` for the scan over layers.

    Args:
        condition: the label, or a mapping of the label and masks.
        batch: number of examples B.
        depth: number of layers L.

    Raises:
        ValueError: if a mask is unknown, its shape is not [B, L], or its dtype is not the one of the table.
    """
    if not isinstance(condition, Mapping):
        return condition, {}
    masks = {name: jnp.asarray(entry) for name, entry in condition.items() if name != "label"}
    for name, entry in masks.items():
        if name not in KINDS:
            raise ValueError(
                f"the condition has {name!r}, which is neither 'label' nor a layer mask. Layer masks are "
                f"{', '.join(map(repr, KINDS))}"
            )
        if entry.shape != (batch, depth) or not jnp.issubdtype(entry.dtype, KINDS[name]):
            raise ValueError(
                f"the layer mask {name!r} has shape {entry.shape} and dtype {entry.dtype}. Valid: [B, L] = ({batch}, "
                f"{depth}), {KINDS[name].__name__.rstrip('_')}; see diffusion.models.layers.layer_masks"
            )
    return condition.get("label"), {name: entry.T for name, entry in masks.items()}
