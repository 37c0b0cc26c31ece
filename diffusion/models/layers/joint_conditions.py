"""Checks of the texts, strengths and residuals that transformers receive in their condition."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def check_pictures(x: jax.Array, pictures: Sequence[jax.Array]) -> None:
    """Refuses latents of pictures that are edited, of another batch or other channels than x.

    Args:
        x: noised latents [B, H, W, C].
        pictures: the condition's 'pictures', each [B, h, w, C].

    Raises:
        ValueError: naming the shape.
    """
    for latents in pictures:
        if latents.ndim != 4 or (latents.shape[0], latents.shape[3]) != (x.shape[0], x.shape[3]):
            raise ValueError(
                f"each of the condition's 'pictures' must be [B, h, w, C] = ({x.shape[0]}, h, w, {x.shape[3]}); got "
                f"{latents.shape}"
            )


def check_text(batch: int, text_width: int, inputs: dict[str, Any], pooled_width: int = 0) -> None:
    """Refuses a text, its mask or a pooled text of other shapes than the network's.

    Args:
        batch: number B of examples.
        text_width: features of the text's tokens.
        inputs: entries of the condition: "text", and "text_mask" and "pooled" if the network reads them.
        pooled_width: features of the pooled text.

    Raises:
        ValueError: naming both shapes.
    """
    text = inputs["text"].shape
    if len(text) != 3 or text[0] != batch or text[2] != text_width:
        raise ValueError(f"the condition's 'text' must be [B, M, text_width] = ({batch}, M, {text_width}); got {text}")
    if "pooled" in inputs and (pooled := inputs["pooled"].shape) != (batch, pooled_width):
        raise ValueError(
            f"the condition's 'pooled' must be [B, pooled_width] = ({batch}, {pooled_width}); got {pooled}"
        )
    mask = inputs.get("text_mask")
    if mask is not None and (mask.shape != text[:2] or mask.dtype != bool):
        raise ValueError(
            f"the condition's 'text_mask' must be Bool [B, M] = {text[:2]}; got {mask.dtype} of shape {mask.shape}"
        )


def shown_text(inputs: Mapping[str, Any]) -> jax.Array:
    """Which tokens of the condition's "text" are attended to, Bool [B, M]: its "text_mask", or all without one."""
    mask = inputs["text_mask"]
    return jnp.ones(inputs["text"].shape[:2], bool) if mask is None else jnp.asarray(mask)


def lengthened(
    text: jax.Array, mask: jax.Array | None, more: Sequence[tuple[jax.Array, jax.Array]]
) -> tuple[jax.Array, jax.Array | None]:
    """A text and the mask of its tokens with further tokens after them.

    Args:
        text: [B, M, E].
        mask: Bool [B, M]; None: all are seen.
        more: pairs of tokens [B, K, E] and Bool [B, K].

    Returns:
        ([B, M', E], Bool [B, M'], or None where there is no mask and nothing more).

    Raises:
        ValueError: for further tokens of another shape.
    """
    for tokens, valid in more:
        fits = tokens.ndim == 3 and (tokens.shape[0], tokens.shape[2]) == (text.shape[0], text.shape[2])
        if not fits or valid.shape != tokens.shape[:2] or valid.dtype != bool:
            raise ValueError(
                f"each entry of the condition's 'extra_text' must be a pair of [B, K, E] = ({text.shape[0]}, K, "
                f"{text.shape[2]}) and Bool [B, K]; got {tokens.shape} and {valid.dtype} {valid.shape}"
            )
    if not more:
        return text, mask
    mask = jnp.ones(text.shape[:2], bool) if mask is None else mask
    tokens = [text, *(tokens.astype(text.dtype) for tokens, _ in more)]
    return jnp.concatenate(tokens, axis=1), jnp.concatenate([mask, *(valid for _, valid in more)], axis=1)


def check_strength(batch: int, inputs: Mapping[str, Any]) -> None:
    """Refuses a strength of the guidance that is not one number for each example, if there is one.

    Args:
        batch: number B of examples.
        inputs: entries of the condition.

    Raises:
        ValueError: naming both shapes.
    """
    strength = inputs.get("strength")
    if strength is not None and strength.shape != (batch,):
        raise ValueError(f"the condition's 'strength' must be [B] = ({batch},); got {strength.shape}")


def check_residuals(residuals: Any, tokens: tuple[int, int, int], depth: int) -> None:
    """Refuses residuals that are not 1 to `depth` arrays of the picture's tokens [B, N, width].

    Raises:
        ValueError: naming the shape.
    """
    if residuals is None:
        return
    if not isinstance(residuals, tuple) or not 0 < len(residuals) <= depth:
        raise ValueError(
            f"the condition's 'residuals' must be a tuple of 1 to {depth} arrays; got "
            f"{len(residuals) if isinstance(residuals, tuple) else type(residuals).__name__}"
        )
    for array in residuals:
        if array.shape != tokens:
            raise ValueError(
                f"each of the condition's 'residuals' must have the shape of the picture's tokens, {tokens}; got "
                f"{array.shape}"
            )
