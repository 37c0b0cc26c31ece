"""Common parts of published networks on square images: the values that they fix, and the arguments of a call."""

__all__ = ["doubled_channels", "example", "require_classes", "side_and_channels", "side_of_shape"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import MAYBE_SIZE, Refusal
from diffusion.models.interchange.field_table import Group


def require_classes(name: str, module: Any) -> None:
    """Refuses an unconditional module, for a class of networks that are conditional on a class.

    Raises:
        Refusal: always naming `num_classes`.
    """
    if not module.num_classes:
        raise Refusal(f"{name}: num_classes = 0 cannot be written to it; it is conditional on a class.")


def side_and_channels(name: str, module: Any, shape: tuple[int, int, int]) -> tuple[int, int]:
    """The side and the channels of a module's images, which a published class takes square.

    Args:
        name: name of the published class.
        module: module to be written.
        shape: shape of its images, for the message.

    Raises:
        Refusal: for a module without a shape, or one of other images.
    """
    if module.shape is None or module.shape[0] != module.shape[1]:
        raise Refusal(
            f"{name}: shape = {module.shape}; it must be that of square images, e.g. module.clone(shape={shape})."
        )
    return module.shape[0], module.shape[2]


def side_of_shape(field: str, side: int, channels_field: str, channels: int) -> Group:
    """The fields of a published config that are our shape (side, side, channels).

    Args:
        field: their name of the side.
        side: its default.
        channels_field: their name of the channels.
        channels: its default.
    """

    def read(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
        return {"shape": (values[field], values[field], values[channels_field])}

    def write(module: Any) -> dict[str, Any]:
        shape = module.shape
        if shape is None or shape[0] != shape[1]:
            example = (side, side, channels)
            raise ValueError(f"shape = {shape}; it must be that of square images, e.g. module.clone(shape={example}).")
        return {field: shape[0], channels_field: shape[2]}

    return Group({field: (side, None), channels_field: (channels, None)}, read, write)


def doubled_channels(default: int | None) -> Group:
    """diffusers' out_channels: twice the channels where a variance is learned.

    Args:
        default: theirs.
    """

    def read(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
        count, channels = values["out_channels"], ours["shape"][-1]
        if count not in (None, channels, 2 * channels):
            raise ValueError(f"out_channels = {count} is not supported; supported: {channels}, {2 * channels}.")
        return {"learn_sigma": count == 2 * channels}

    write = lambda module: {"out_channels": module.shape[-1] * (2 if module.learn_sigma else 1)}
    return Group({"out_channels": (default, MAYBE_SIZE)}, read, write)


def example(module: Any, channels: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The arguments of a call that shapes the parameters of a class-conditional network: one patch, a time, a label.

    Args:
        module: module with its `patch`.
        channels: number of channels of its images.
    """
    image = jax.ShapeDtypeStruct((1, module.patch, module.patch, channels), jnp.float32)
    return image, jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
