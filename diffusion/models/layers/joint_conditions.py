"""Checks of the conditions of SD3's and Flux's transformers, and their layout for the scan over layers."""

__all__ = ["check_extra", "check_residuals", "check_text", "stacked_pairs"]

from typing import Any

import jax
import jax.numpy as jnp


def stacked_pairs(pairs: tuple[tuple[jax.Array, jax.Array], ...]) -> tuple[jax.Array, jax.Array]:
    """L pairs of [B, K, D] -> two arrays [L, B, K, D]."""
    first, second = zip(*pairs, strict=True)
    return jnp.stack(first), jnp.stack(second)


def check_text(batch: int, text_width: int, pooled_width: int, inputs: dict[str, Any]) -> None:
    """Refuses a text or a pooled text of other widths than the network's.

    Raises:
        ValueError: naming both shapes.
    """
    text = inputs["text"].shape
    pooled = inputs["pooled"].shape
    if len(text) != 3 or text[0] != batch or text[2] != text_width:
        raise ValueError(f"the condition's 'text' is [B, M, text_width] = ({batch}, M, {text_width}); got {text}")
    if pooled != (batch, pooled_width):
        raise ValueError(f"the condition's 'pooled' is [B, pooled_width] = ({batch}, {pooled_width}); got {pooled}")


def check_residuals(residuals: Any, tokens: tuple[int, int, int], depth: int) -> None:
    """Refuses residuals that are not 1 to `depth` arrays of the picture's tokens [B, N, width].

    Raises:
        ValueError: naming the shape.
    """
    if residuals is None:
        return
    if not isinstance(residuals, tuple) or not 0 < len(residuals) <= depth:
        raise ValueError(
            f"the condition's 'residuals' are a tuple of 1 to {depth} arrays; got "
            f"{len(residuals) if isinstance(residuals, tuple) else type(residuals).__name__}"
        )
    for array in residuals:
        if array.shape != tokens:
            raise ValueError(
                f"the condition's 'residuals' have the shape of the picture's tokens {tokens}; got {array.shape}"
            )


def check_extra(extra: Any, batch: int, width: int, depth: int) -> None:
    """Refuses extra keys and values that are not `depth` pairs of one shape [B, K, width].

    Raises:
        ValueError: naming the number of pairs or the shapes.
    """
    if extra is None:
        return
    if not isinstance(extra, tuple) or len(extra) != depth or any(len(pair) != 2 for pair in extra):
        raise ValueError(f"the condition's 'extra' is a tuple of {depth} pairs (keys, values), one for each layer")
    shapes = {array.shape for pair in extra for array in pair}
    if len(shapes) > 1 or any(len(s) != 3 or (s[0], s[2]) != (batch, width) for s in shapes):
        raise ValueError(
            f"the condition's 'extra' has keys and values of one shape [B, K, width] = "
            f"({batch}, K, {width}); got {sorted(shapes)}"
        )
