"""Checks of the inputs of U-Nets without text, before anything is computed.

The label is one of `num_classes` classes, or `num_classes`, the null class. This adds nothing to the embedding of the
time, as in EDM, so that label dropout and classifier-free guidance need no row in a published table.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.arrays.not_a_number import table_rows
from diffusion.models.layers import conditions

KINDS = {1: "series", 2: "images", 3: "volumes"}
SIDES = {1: "L", 2: "H, W", 3: "D, H, W"}


def checked(
    condition: Any,
    x: jax.Array,
    t: jax.Array,
    *,
    channels: int,
    halvings: int,
    num_classes: int,
    axes: int = 2,
    vector_width: int = 0,
    optional: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The entries of a condition, after checks of all shapes.

    Args:
        condition: labels int [B], vectors float [B, vector_width], None, or a dict with "label", "vector",
            "residuals" and those that are `optional`.
        x: the network's input.
        t: the network's clock.
        channels: number of channels of the network's input.
        halvings: number of times that the network halves the side.
        num_classes: number of classes of the network; 0 for an unconditional one.
        axes: number of axes of the input between batch and channels.
        vector_width: width of the network's vector; 0 for one that receives no vector.
        optional: names of further entries.

    Returns:
        One value, or None, for each of "label", "vector", "residuals" and `optional`.

    Raises:
        ValueError: naming the value that does not fit, and the valid ones.
    """
    if x.ndim != axes + 2 or x.shape[-1] != channels:
        raise ValueError(
            f"this U-Net takes {KINDS[axes]} [B, {SIDES[axes]}, {channels}]; got an array of shape {x.shape}"
        )
    factor = 2**halvings
    if any(side % factor for side in x.shape[1:-1]):
        raise ValueError(
            f"the sides {x.shape[1:-1]} must be multiples of {factor}: the U-Net halves them {halvings} times"
        )
    if jnp.shape(t) not in ((), x.shape[:1]):
        raise ValueError(f"there must be one time for each example, t [B] = {x.shape[:1]}; got shape {jnp.shape(t)}")
    inputs = conditions.entries(conditions.named(condition), (), ("label", "vector", "residuals", *optional))
    conditions.check_label(inputs["label"], x.shape[0], num_classes)
    conditions.check_vector(inputs["vector"], x.shape[0], vector_width)
    return inputs


def class_rows(table: jax.Array, labels: jax.Array | None) -> jax.Array:
    """Rows of a table of classes, zero for the null class.

    Args:
        table: [num_classes, D].
        labels: int [B] in 0 .. num_classes; any other gives NaN, never a wrong row. Not None, which `checked` refuses.

    Returns:
        [B, D].
    """
    assert labels is not None
    table = jnp.concatenate([table, jnp.zeros_like(table[:1])])
    return table_rows(table, labels)


def with_residuals(skips: Sequence[jax.Array], middle: jax.Array, residuals: Sequence[jax.Array] | None):
    """Adds the residuals of an adapter such as ControlNet to the skips, in order, and to the middle, last.

    Args:
        skips: arrays [B, H, W, C], as the encoder made them.
        middle: [B, H, W, C].
        residuals: one array for each skip, and one for the middle; None adds nothing.

    Returns:
        (skips, middle).

    Raises:
        ValueError: for another number of residuals, or a residual of another shape.

    Reference: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023, section 3.2.
    """
    if residuals is None:
        return list(skips), middle
    streams = [*skips, middle]
    if len(residuals) != len(streams):
        raise ValueError(
            f"'residuals' must have {len(streams)} arrays in this U-Net, for {len(skips)} skips and the middle; got "
            f"{len(residuals)}"
        )
    for i, (stream, residual) in enumerate(zip(streams, residuals)):
        if residual.shape != stream.shape:
            raise ValueError(f"'residuals'[{i}] must have the shape {stream.shape} in this U-Net; got {residual.shape}")
    *skips, middle = (stream + residual.astype(stream.dtype) for stream, residual in zip(streams, residuals))
    return skips, middle
