"""Networks that see a part of a picture's patches in training: the condition's entry "keep".

    {"label": labels, "keep": keep}    # int [B, K], the numbers of K patches, row by row; no two alike

A network with `masks_vary` also takes -1, for no patch, and hides such a token from the others.

Without the entry the networks see all patches. In sampling there is no such entry.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def parted_keep(condition: Any) -> tuple[Any, jax.Array | None]:
    """A condition without its entry "keep", and that entry, or None if it has no such entry."""
    if not isinstance(condition, Mapping) or "keep" not in condition:
        return condition, None
    return {name: entry for name, entry in condition.items() if name != "keep"} or None, condition["keep"]


def check_keep(keep: jax.Array | None, batch: int, number: int) -> None:
    """Refuses an entry of another shape or type.

    Args:
        keep: the entry.
        batch: number of examples.
        number: number of patches of a picture.

    Raises:
        ValueError: naming what is there and what is valid.
    """
    if keep is None:
        return
    sound = keep.ndim == 2 and keep.shape[0] == batch and 1 <= keep.shape[1] <= number
    if not sound or not jnp.issubdtype(keep.dtype, jnp.integer):
        raise ValueError(
            f"the condition's 'keep' must be int [B, K], the numbers of K of the {number} patches, with B = {batch} "
            f"and K from 1 to {number}; got shape {keep.shape}, dtype {keep.dtype}"
        )


def picked(tokens: jax.Array, keep: jax.Array | None) -> jax.Array:
    """The tokens of the kept patches, [B, N, D] -> [B, K, D]; of all where `keep` is None. -1 picks the last."""
    return tokens if keep is None else jnp.take_along_axis(tokens, keep[:, :, None] % tokens.shape[1], axis=1)


def completed(tokens: jax.Array, keep: jax.Array | None, mask_token: jax.Array, number: int) -> jax.Array:
    """Puts tokens back where they were picked, and the mask's token everywhere else.

    Args:
        tokens: tokens of the kept patches [B, K, D].
        keep: their indices [B, K]; a token of index -1 is left out. None: the tokens belong to all patches in order.
        mask_token: [D] token for the other patches.
        number: number N of all patches.

    Returns:
        [B, N, D], of the dtype of the tokens.
    """
    if keep is None:
        return tokens
    batch, _, width = tokens.shape
    masked = jnp.broadcast_to(mask_token.astype(tokens.dtype), (batch, number, width))
    places = jnp.where(keep < 0, number, keep)  # outside of the picture, where nothing is written
    return masked.at[jnp.arange(batch)[:, None], places].set(tokens, mode="drop")
