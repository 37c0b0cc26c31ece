"""Common parts of published networks on square images: fields of their configs, tables, and the arguments of a call."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import DEPTH, MAYBE_SIZE, Computed, Refusal, array
from diffusion.models.interchange.field_table import Field, Group
from diffusion.models.layers.embeddings import sincos_positions


def side_of_shape(field: str, side: int, channels_field: str, channels: int) -> Group:
    """The two fields of a published config that state our shape (side, side, channels).

    Args:
        field: the published name of the side.
        side: the published default of the side.
        channels_field: the published name of the number of channels.
        channels: the published default of the number of channels.
    """

    def read(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
        return {"shape": (values[field], values[field], values[channels_field])}

    def write(module: Any) -> dict[str, Any]:
        shape = module.shape
        if shape is None or shape[0] != shape[1]:
            example = (side, side, channels)
            raise ValueError(
                f"shape = {shape} must be the shape of square images; set it e.g. by module.clone(shape={example})."
            )
        return {field: shape[0], channels_field: shape[2]}

    return Group({field: (side, None), channels_field: (channels, None)}, read, write)


def dit_sizes(side: int, channels: int, patch: int = 2, width: int = 1152, depth: int = 28, heads: int = 16) -> tuple:
    """The fields of the sizes that DiT's repository and repositories built on it share; arguments are the defaults."""
    return (
        side_of_shape("input_size", side, "in_channels", channels),
        Field("patch_size", "patch", patch),
        Field("hidden_size", "width", width),
        Field("depth", "depth", depth, DEPTH),
        Field("num_heads", "heads", heads),
    )


def _classes(module: Any) -> int:
    if not module.num_classes:
        raise ValueError(
            "num_classes = 0 cannot be written in this format, whose networks are always conditional on a class."
        )
    return module.num_classes


def _null_class(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    if not values["class_dropout_prob"] > 0:
        raise ValueError("class_dropout_prob = 0 leaves out the null class, but this network always has one.")
    return {}


CLASSES = Field("num_classes", "num_classes", 1000, write=_classes)
"""The field of the number of classes, of a network that is always conditional on a class."""

NULL_CLASS = Group({"class_dropout_prob": (0.1, None)}, _null_class, lambda module: {"class_dropout_prob": 0.1})
"""The field of the share of training examples without a class; if it is 0, the published network has no null class."""


def sincos_table(side: int, width: int) -> Computed:
    """The published table of the positions of side x side patches, [1, side^2, width]."""
    return Computed((1, side**2, width), lambda: sincos_positions(side, side, width)[None])


def doubled_channels(default: int | None) -> Group:
    """The field out_channels of diffusers, which is twice the number of channels if a variance is learned.

    Args:
        default: the default of diffusers.
    """

    def read(values: dict[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
        count, channels = values["out_channels"], ours["shape"][-1]
        if count not in (None, channels, 2 * channels):
            raise ValueError(f"out_channels = {count} is not supported; supported: {channels}, {2 * channels}.")
        return {"learn_sigma": count == 2 * channels}

    write = lambda module: {"out_channels": module.shape[-1] * (2 if module.learn_sigma else 1)}
    return Group({"out_channels": (default, MAYBE_SIZE)}, read, write)


def patches_on_a_side(module: Any) -> int:
    """The number of patches along a side of a network's images.

    Raises:
        Refusal: for a module without a shape.
    """
    return _shape(module)[0] // module.patch


def _shape(module: Any) -> tuple[int, int, int]:
    if module.shape is None:
        raise Refusal(
            f"{type(module).__name__}: the shape of its images is not known; set it e.g. by module.clone(shape=(32, "
            "32, 4))."
        )
    return module.shape


def example(module: Any, channels: int = 0) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The arguments of a call that shapes the parameters of a class-conditional network: one patch, a time, a label.

    Args:
        module: module with its `patch` and `shape`.
        channels: number of channels of the images of a module without a shape; if 0, the module must have a shape.

    Raises:
        Refusal: for a module without a shape, if `channels` is 0.
    """
    channels = channels if module.shape is None and channels else _shape(module)[-1]
    return array(1, module.patch, module.patch, channels), array(1), array(1, dtype=jnp.int32)
