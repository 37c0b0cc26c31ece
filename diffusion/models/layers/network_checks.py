"""Checks that networks share: of their fields when they are constructed, and of their inputs before any computation."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.layers.choices import look_up
from diffusion.models.layers.conditions import check_label


def positive(network: Any, fields: Iterable[str], *, zero: bool = False) -> None:
    """Refuses fields that are not positive.

    Args:
        network: the module.
        fields: names of numbers.
        zero: whether they may be 0.

    Raises:
        ValueError: naming the first one.
    """
    for field in fields:
        value = getattr(network, field)
        if value < 0 or (value == 0 and not zero):
            raise ValueError(f"{field}={value} must be {'0 or more' if zero else 'positive'}")


def known(network: Any, choices: Mapping[str, Iterable[str]]) -> None:
    """Refuses fields that name something unknown.

    Args:
        network: the module.
        choices: the valid names, by field.

    Raises:
        ValueError: naming the first one and the valid names.
    """
    for field, names in choices.items():
        look_up(dict.fromkeys(names), getattr(network, field), field)


def heads(network: Any, features: int = 1) -> None:
    """Refuses heads that do not divide the width, or whose number of features is no multiple of `features`.

    Args:
        network: module with `width` and `heads`.
        features: 4 for rotary positions of two axes, or of two halves.

    Raises:
        ValueError: naming both.
    """
    width, number = network.width, network.heads
    if width % (features * number):
        rotary = f"width={width} must be a multiple of {features} heads = {features * number}, for rotary positions"
        raise ValueError(rotary if features > 1 else f"heads={number} does not divide width={width}")


def key_heads(network: Any) -> None:
    """Refuses heads of keys and values that do not divide those of the queries.

    Args:
        network: module with `heads` and `key_heads`.

    Raises:
        ValueError: naming both.
    """
    if network.heads % network.key_heads:
        raise ValueError(f"key_heads={network.key_heads} does not divide heads={network.heads}")


def tower(network: Any) -> None:
    """Refuses a transformer of texts or images whose sizes are not positive, or whose heads do not divide its width.

    Raises:
        ValueError: naming the field.
    """
    sizes = ("size", "patch", "vocabulary", "positions", "features", "width", "depth", "heads", "hidden")
    positive(network, [field for field in sizes if hasattr(network, field)])
    heads(network)
    patch = getattr(network, "patch", 1)
    if getattr(network, "size", patch) < patch:
        raise ValueError(f"patch={patch} is larger than size={network.size}")


def rotary_axes(network: Any, number: int) -> None:
    """Refuses heads that do not divide the width, and `axes` that do not share out the features of a head in pairs.

    Args:
        network: the module, with `width`, `heads` and `axes`.
        number: number of a token's coordinates.

    Raises:
        ValueError: naming the field.
    """
    heads(network)
    axes, width = network.axes, network.width // network.heads
    if len(axes) != number or sum(axes) != width or any(size < 2 or size % 2 for size in axes):
        raise ValueError(f"axes={axes} must be {number} even numbers that sum to {width}, the width of a head")


def whole_patches(network: Any) -> None:
    """Refuses a `shape` that is no image's, or that `patch` does not divide.

    Raises:
        ValueError: naming both.
    """
    shape, patch = network.shape, network.patch
    if len(shape) != 3 or shape[0] % patch or shape[1] % patch:
        raise ValueError(f"shape={shape} must be (H, W, C) of images whose sides are multiples of patch={patch}")


def positions_table(network: Any, x: jax.Array) -> None:
    """Refuses latents with more patches on a side than the network's table of positions.

    Args:
        network: module with `patch`, and `positions`, the side of the table in patches.
        x: its input [B, H, W, C].

    Raises:
        ValueError: naming both.
    """
    if max(x.shape[1:3]) // network.patch > network.positions:
        raise ValueError(
            f"latents of {x.shape[1]} x {x.shape[2]} need more patches of {network.patch} on a side than the table of "
            f"positions={network.positions} has"
        )


def classes(network: Any) -> None:
    """Refuses a negative number of classes.

    Raises:
        ValueError: naming it.
    """
    if network.num_classes < 0:
        raise ValueError(f"num_classes={network.num_classes} must be 0 (unconditional) or the number of classes")


def example(network: Any, x: jax.Array, form: str, rank: int | None = None) -> None:
    """Refuses an input of another rank, or of examples of another shape, than the network's.

    Args:
        network: module with the field `shape`, the shape of one example, or None where any shape is valid.
        x: the network's input.
        form: the valid input, in words.
        rank: number of axes of x; None: any from 2.

    Raises:
        ValueError: naming both shapes.
    """
    name = type(network).__name__
    if x.ndim < 2 or rank not in (None, x.ndim):
        raise ValueError(f"{name} takes {form}; got an array of shape {x.shape}")
    if network.shape is not None and tuple(network.shape)[-1] != x.shape[-1]:
        raise ValueError(
            f"shape={network.shape}: this {name} takes examples with the channels of that shape; got an array of shape "
            f"{x.shape}"
        )


def images(network: Any, x: jax.Array) -> None:
    """Refuses arrays that are no images, and images of other channels than in the network's `shape`.

    Args:
        network: module with `shape`, (H, W, C) or None.
        x: its input.

    Raises:
        ValueError: naming the shape.
    """
    example(network, x, "images [B, H, W, C]", rank=4)


def ids(text: jax.Array, mask: jax.Array | None = None) -> None:
    """Refuses texts that are no integer ids [B, N], and a mask of another shape.

    Raises:
        ValueError: naming the shape.
    """
    if text.ndim != 2 or not jnp.issubdtype(text.dtype, jnp.integer):
        raise ValueError(f"the text must be integer ids [B, N]; got shape {text.shape}, dtype {text.dtype}")
    if mask is not None and mask.shape != text.shape:
        raise ValueError(f"the mask has shape {mask.shape}, but the ids have {text.shape}")


def labelled_images(network: Any, x: jax.Array, t: jax.typing.ArrayLike, label: jax.Array | None) -> None:
    """Refuses what `images`, `times` and `conditions.check_label` refuse, of a network with `num_classes`."""
    images(network, x)
    times(network, x, t)
    check_label(label, x.shape[0], network.num_classes)


def latents(network: Any, x: jax.Array, t: jax.typing.ArrayLike, channels: int, *, video: bool = False) -> None:
    """Refuses what are no latents of that many channels, and a clock that is neither one time nor one for each example.

    Args:
        network: the module.
        x: its input.
        t: the time that it receives.
        channels: C of its latents.
        video: whether they are latents of videos.

    Raises:
        ValueError: naming the shape.
    """
    axes = "B, F, H, W" if video else "B, H, W"
    if x.ndim != 4 + video or x.shape[-1] != channels:
        name = type(network).__name__
        raise ValueError(f"this {name} takes latents [{axes}, {channels}]; got an array of shape {x.shape}")
    times(network, x, t)


def times(network: Any, x: jax.Array, *clocks: jax.typing.ArrayLike) -> None:
    """Refuses a clock that is neither one time for all examples nor one for each.

    Args:
        network: the module.
        x: its input [B, ...].
        clocks: the times that it receives.

    Raises:
        ValueError: naming the shape.
    """
    for t in clocks:
        if jnp.shape(t) not in ((), x.shape[:1]):
            raise ValueError(
                f"{type(network).__name__} takes one time for each example, t [B] = {x.shape[:1]}; got shape "
                f"{jnp.shape(t)}, for x of shape {x.shape}"
            )


def own_times(network: Any, x: jax.Array, *clocks: jax.typing.ArrayLike) -> None:
    """Refuses another number of clocks than the network's `times`, and what `times` refuses."""
    if len(clocks) != network.times:
        raise ValueError(
            f"times={network.times}: this network receives {network.times} times, as a tuple if more than one; got "
            f"{len(clocks)}"
        )
    times(network, x, *clocks)


def frame_times(network: Any, x: jax.Array, t: jax.typing.ArrayLike) -> None:
    """Refuses a clock that is neither one time for all videos, nor one for each, nor one for each of their frames.

    Args:
        network: the module.
        x: its videos [B, F, ...].
        t: the times that it receives.

    Raises:
        ValueError: naming the shape.
    """
    if jnp.shape(t) not in ((), x.shape[:1], x.shape[:2]):
        raise ValueError(
            f"{type(network).__name__} takes one time for each video, t [B] = {x.shape[:1]}, or for each frame, "
            f"t [B, F] = {x.shape[:2]}; got shape {jnp.shape(t)}"
        )
