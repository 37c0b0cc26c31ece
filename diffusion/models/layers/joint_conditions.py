"""What the conditions of SD3's and Flux's transformers must look like, and how it is laid out for their scans."""

from typing import Any

import jax
import jax.numpy as jnp


def stacked_pairs(pairs: tuple[tuple[jax.Array, jax.Array], ...]) -> tuple[jax.Array, jax.Array]:
    """L pairs of [B, K, D] -> two arrays [L, B, K, D]."""
    first, second = zip(*pairs, strict=True)
    return jnp.stack(first), jnp.stack(second)


def check_text(batch: int, text_width: int, pooled_width: int, told: dict[str, Any]) -> None:
    """Refuses a text or a pooled text of other widths than the network's.

    Raises:
        ValueError: naming both shapes.
    """
    text = told["text"].shape
    pooled = told["pooled"].shape
    if len(text) != 3 or text[0] != batch or text[2] != text_width:
        raise ValueError(f"the condition's 'text' is [B, M, text_width] = ({batch}, M, {text_width}); got {text}")
    if pooled != (batch, pooled_width):
        raise ValueError(f"the condition's 'pooled' is [B, pooled_width] = ({batch}, {pooled_width}); got {pooled}")


def check_residuals(given: Any, tokens: tuple[int, int, int], depth: int) -> None:
    """Refuses residuals that are not 1 to `depth` arrays of the picture's tokens [B, N, width].

    Raises:
        ValueError: naming the shape.
    """
    if given is None:
        return
    if not isinstance(given, tuple) or not 0 < len(given) <= depth:
        raise ValueError(
            f"the condition's 'residuals' are a tuple of 1 to {depth} arrays; got "
            f"{len(given) if isinstance(given, tuple) else type(given).__name__}"
        )
    for array in given:
        if array.shape != tokens:
            raise ValueError(
                f"the condition's 'residuals' have the shape of the picture's tokens {tokens}; got {array.shape}"
            )


def check_extra(given: Any, batch: int, width: int, depth: int) -> None:
    """Refuses extra keys and values that are not `depth` pairs of one shape [B, K, width].

    Raises:
        ValueError: naming what is wrong.
    """
    if given is None:
        return
    if not isinstance(given, tuple) or len(given) != depth or any(len(pair) != 2 for pair in given):
        raise ValueError(f"the condition's 'extra' is a tuple of {depth} pairs (keys, values), one for each layer")
    shapes = {array.shape for pair in given for array in pair}
    if len(shapes) > 1 or any(len(s) != 3 or (s[0], s[2]) != (batch, width) for s in shapes):
        raise ValueError(
            f"the condition's 'extra' has keys and values of one shape [B, K, width] = "
            f"({batch}, K, {width}); got {sorted(shapes)}"
        )
