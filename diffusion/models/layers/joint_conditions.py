"""Checks of the conditions of SD3's and Flux's transformers."""

__all__ = ["check_residuals", "check_text"]

from typing import Any


def check_text(batch: int, text_width: int, pooled_width: int, inputs: dict[str, Any]) -> None:
    """Refuses a text or a pooled text of other widths than the network's.

    Raises:
        ValueError: naming both shapes.
    """
    text = inputs["text"].shape
    if len(text) != 3 or text[0] != batch or text[2] != text_width:
        raise ValueError(f"the condition's 'text' is [B, M, text_width] = ({batch}, M, {text_width}); got {text}")
    if "pooled" in inputs and (pooled := inputs["pooled"].shape) != (batch, pooled_width):
        raise ValueError(f"the condition's 'pooled' is [B, pooled_width] = ({batch}, {pooled_width}); got {pooled}")
    if "text_mask" in inputs:
        mask = inputs["text_mask"]
        if mask.shape != text[:2] or mask.dtype != bool:
            raise ValueError(
                f"the condition's 'text_mask' is Bool [B, M] = {text[:2]}; got {mask.dtype} of shape {mask.shape}"
            )


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
