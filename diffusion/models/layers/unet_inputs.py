"""The inputs of the U-Nets without text beside x_t, checked before anything is computed.

The class is one of `num_classes`, or label `num_classes`, the null class, which adds nothing to the embedding of the
time, as in EDM, so that label dropout and classifier-free guidance need no row in a published table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.layers import conditions


def checked(
    condition: Any,
    x: jax.Array,
    t: jax.Array,
    *,
    channels: int,
    halvings: int,
    num_classes: int,
    optional: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The entries of a condition, once all shapes are checked.

    Args:
        condition: labels int [B], None, or a dict with "label", "residuals" and those that are `optional`.
        x: the network's images.
        t: the network's clock.
        channels: that the network takes.
        halvings: how often it halves the side.
        num_classes: of the network; 0 for an unconditional one.
        optional: names of further entries.

    Returns:
        One value, or None, for each of "label", "residuals" and `optional`.

    Raises:
        ValueError: naming the value that does not fit, and the valid ones.
    """
    if x.ndim != 4 or x.shape[-1] != channels:
        raise ValueError(f"this U-Net takes images [B, H, W, {channels}]; got an array of shape {x.shape}")
    factor = 2**halvings
    if x.shape[1] % factor or x.shape[2] % factor:
        raise ValueError(
            f"height {x.shape[1]} and width {x.shape[2]} must be multiples of {factor}: the U-Net halves "
            f"them {halvings} times"
        )
    if jnp.shape(t) not in ((), x.shape[:1]):
        raise ValueError(f"one time for each image, t [B] = {x.shape[:1]}; got shape {jnp.shape(t)}")
    if condition is not None and not isinstance(condition, Mapping):
        condition = {"label": condition}
    inputs = conditions.entries(condition, (), ("label", "residuals", *optional))
    label = inputs["label"]
    if num_classes == 0 and label is not None:
        raise ValueError("num_classes=0 makes an unconditional network, but there is a class; pass None")
    if num_classes and label is None:
        raise ValueError(
            f"num_classes={num_classes} makes a class-conditional network, but there is no class; pass "
            f"labels [B], with the null class {num_classes} for no class"
        )
    if label is not None and (jnp.shape(label) != x.shape[:1] or not jnp.issubdtype(label.dtype, jnp.integer)):
        raise ValueError(
            f"one integer label for each image, [B] = {x.shape[:1]}; got shape {jnp.shape(label)}, dtype {label.dtype}"
        )
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
    return table.at[labels].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def with_residuals(skips: Sequence[jax.Array], middle: jax.Array, residuals: Sequence[jax.Array] | None):
    """Adds the residuals of an adapter such as ControlNet to the skips, in order, and to the middle, last.

    Args:
        skips: arrays [B, H, W, C], as the encoder made them.
        middle: [B, H, W, C].
        residuals: one array for each skip, and one for the middle; None adds nothing.

    Returns:
        (skips, middle).

    Raises:
        ValueError: for another number of residuals, or one of another shape.

    Reference: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023, section 3.2.
    """
    if residuals is None:
        return list(skips), middle
    streams = [*skips, middle]
    if len(residuals) != len(streams):
        raise ValueError(
            f"'residuals' has {len(streams)} arrays in this U-Net, for {len(skips)} skips and the middle; got "
            f"{len(residuals)}"
        )
    for i, (stream, residual) in enumerate(zip(streams, residuals)):
        if residual.shape != stream.shape:
            raise ValueError(f"'residuals'[{i}] has the shape {stream.shape} in this U-Net; got {residual.shape}")
    *skips, middle = (stream + residual.astype(stream.dtype) for stream, residual in zip(streams, residuals))
    return skips, middle
