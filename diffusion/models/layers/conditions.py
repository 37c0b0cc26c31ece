"""The condition of a network, its input beside x_t and the time: one dict, with the same names for all networks.

| entry          | shape          | meaning                                                                            |
|----------------|----------------|------------------------------------------------------------------------------------|
| "label"        | int [B]        | the class, or a number that is embedded instead of one (ConditionalUNet)           |
| "vector"       | [B, P]         | numbers that describe the example: a measurement, parameters, an embedding         |
| "text"         | [B, M, E]      | embeddings of the prompt's tokens                                                  |
| "text_mask"    | Bool [B, M]    | which of these tokens are valid; without it all are                                |
| "sound_text"   | [B, M, E]      | embeddings of the same tokens for the sound of a clip (LTX-2)                      |
| "apart"        | Bool [B]       | whether a clip and its sound do not attend to each other (LTX-2); without it, no   |
| "pooled"       | [B, P]         | one embedding of the whole prompt                                                  |
| "size"         | [B, 6]         | original height and width, top and left of the crop, requested height and width    |
| "strength"     | [B]            | guidance strength that the network was distilled with                              |
| "rate"         | [B]            | frames per second of the video                                                     |
| "seconds"      | [B, F]         | the time of each frame in seconds, in place of the rate                            |
| "keep"         | int [B, K]     | indices of the patches that a masked network sees (kept_patches); without it, all  |
| "interval"     | [B, 2]         | first and last time at which guidance acts (MiT, DiT)                              |
| "augment"      | [B, A]         | numbers that describe the example's augmentation (EDM); without it, no change      |
| "given"        | [B, L, C]      | the known values of a series, see `diffusion.data.series_masks`                    |
| "mask", "real" | Bool [B, L, C] | where values are known; where x is to be predicted                                 |
| "real"         | Bool [B, N]    | the elements of a set, the residues of a chain; the others are padding             |
| "spectrogram"  | [B, F, M]      | levels of M bands of frequency in F frames of the clip (DiffWave)                  |
| "residuals"    | tuple, [B, ..] | ControlNet's additions to the residual stream, in the order of the layers          |
| "level_residuals" | tuple, [B, ..] | T2I-Adapter's additions at the end of each level of a U-Net                  |
| "extra"        | tuple, nested  | image prompts (IP-Adapter): keys and values of each layer, see `extra_attention`   |
| "extra_joint"  | tuple, nested  | SD 3's image prompts, beside the picture's own tokens, see `extra_attention`       |
| "extra_text"   | tuple, nested  | further tokens of the text, and which of them are seen (Redux)                     |
| "picture"      | [B, h, w, C]   | latents of a picture that is edited, which are further tokens (Kontext)            |
| "pictures"     | tuple, [B, ..] | latents of several such pictures, which may differ in size (FLUX.2)                |
| "coarse"       | [B, h, w, C]   | latents of the stage before, which this one makes finer (Stable Cascade)           |
| "image"        | [B, N, P]      | features of N images in the prompt, each one vector (Stable Cascade)               |
| "patches"      | [B, K, P]      | patches of pictures as an encoder of pictures sees them (Wan)                      |

The layer masks (`models.layers.layer_masks`) are entries of the same dict. The first axis of every leaf is the example,
so that guidance concatenates conditions with one `jax.tree.map`. A network refuses an unknown entry.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class TextInputs(NamedTuple):
    """The inputs of a network from a text, as its attribute `text_inputs`.

    Attributes:
        form: "tokens" of the text, or the "embeddings" of a text encoder.
        entries: names in the condition.
    """

    form: str
    entries: tuple[str, ...]


TOKENS = TextInputs("tokens", ("ids", "mask"))
EMBEDDINGS = TextInputs("embeddings", ("text", "text_mask"))


def named(condition: Any) -> Any:
    """A condition by the names of its entries: floats [B, P] become "vector", labels [B] become "label"."""
    if condition is None or isinstance(condition, Mapping):
        return condition
    numbers = jnp.ndim(condition) > 1 and jnp.issubdtype(condition.dtype, jnp.floating)
    return {"vector" if numbers else "label": condition}


def with_strength(condition: Any, strength: Any, interval: Any = None) -> dict[str, Any]:
    """A condition with a guidance strength, and with its interval if there is one; see `named` for other conditions."""
    guidance = {"strength": strength} if interval is None else {"strength": strength, "interval": interval}
    return {**(named(condition) or {"label": None}), **guidance}


def added(condition: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A condition with the entries of an adapter: residuals are summed, image prompts are appended.

    Raises:
        ValueError: for another entry that it has already, or another number of residuals.
    """
    result = dict(condition)
    for name, entry in more.items():
        if result.get(name) is None:
            result[name] = entry
        elif name in ("residuals", "level_residuals"):
            result[name] = _sum(tuple(result[name]), tuple(entry))
        elif name in ("extra", "extra_joint", "extra_text"):
            result[name] = (*result[name], *entry)
        else:
            raise ValueError(
                f"two adapters set the entry {name!r} of the condition; only residuals and image prompts can be "
                "combined"
            )
    return result


def _sum(one: Any, other: Any) -> Any:
    """The sums of residuals, tuples of arrays or of such tuples; one of an empty tuple and another is the other."""
    if isinstance(one, tuple):
        if not one or not other:
            return one or other
        return tuple(_sum(*pair) for pair in zip(one, other, strict=True))
    return one + other


def entries(condition: Any, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The entries of a condition, with None for missing ones.

    Args:
        condition: a mapping, or None for one without entries.
        required: names that must be present.
        optional: names that may be present.

    Returns:
        One value for each name.

    Raises:
        ValueError: for a missing or an unknown entry, naming it and those that are valid.
    """
    if condition is not None and not isinstance(condition, Mapping):
        raise ValueError(
            f"this network's condition must be a dict with {', '.join(map(repr, required))}; got "
            f"{type(condition).__name__}"
        )
    present = dict(condition or {})
    for name in required:
        if present.get(name) is None:
            raise ValueError(
                f"the condition has no {name!r}, which this network requires (diffusion.models.layers.conditions)"
            )
    for name in present:
        if name not in required + optional:
            raise ValueError(
                f"the condition has {name!r}, which this network does not know; it knows "
                f"{', '.join(map(repr, required + optional)) or 'none'}"
            )
    return {name: present.get(name) for name in required + optional}


def check_label(label: jax.Array | None, batch: int, num_classes: int) -> None:
    """Refuses a class for a network without classes, a missing class, and labels that are not one integer per example.

    Raises:
        ValueError: naming what is there and what is valid.
    """
    if num_classes == 0 and label is not None:
        raise ValueError("num_classes=0 makes an unconditional network, but the condition has a class; pass None")
    if num_classes and label is None:
        raise ValueError(
            f"num_classes={num_classes} makes a class-conditional network, but the condition has no class; pass "
            f"labels [B], with the null class {num_classes} for examples without a class"
        )
    if label is not None and (jnp.shape(label) != (batch,) or not jnp.issubdtype(label.dtype, jnp.integer)):
        raise ValueError(
            f"there must be one integer label for each example, [B] = ({batch},); got shape {jnp.shape(label)}, dtype "
            f"{label.dtype}"
        )


def check_vector(vector: jax.Array | None, batch: int, vector_width: int) -> None:
    """Refuses a vector where the network receives none, a missing vector, and a vector of another shape.

    Raises:
        ValueError: naming what is there and what is valid.
    """
    if (vector is None) != (vector_width == 0):
        present = "there is none" if vector is None else "there is one"
        raise ValueError(
            f"vector_width={vector_width}, but {present}. The condition's 'vector' must be [B, vector_width]; with "
            "vector_width=0 there is none"
        )
    if vector is not None and jnp.shape(vector) != (batch, vector_width):
        raise ValueError(
            f"the condition's 'vector' must be [B, vector_width] = ({batch}, {vector_width}); got {jnp.shape(vector)}"
        )


def series_parts(condition: Any, shape: tuple[int, ...]) -> tuple[tuple[jax.Array, ...], dict[str, Any] | None]:
    """("given", "mask", "real") of the condition of series [B, L, C], and its other entries, or None.

    Raises:
        ValueError: for a condition without one of them, or of another shape.
    """
    names = ("given", "mask", "real")
    if not isinstance(condition, Mapping) or any(condition.get(name) is None for name in names):
        entries = sorted(condition) if isinstance(condition, Mapping) else type(condition).__name__
        raise ValueError(
            f"given=True: the condition must have {', '.join(map(repr, names))} [B, L, C], which describe a partly "
            f"given series (diffusion.data.series_masks); got {entries}"
        )
    parts = tuple(condition[name] for name in names)
    for name, part in zip(names, parts):
        if jnp.shape(part) != shape:
            raise ValueError(f"the condition's {name!r} must have the shape of x, {shape}; got {jnp.shape(part)}")
    return parts, {name: entry for name, entry in condition.items() if name not in names} or None
