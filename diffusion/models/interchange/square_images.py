"""Common parts of published networks on square images: the values that they fix, and the arguments of a call."""

__all__ = ["example", "require", "require_classes", "side_and_channels"]

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import Refusal


def require(name: str, module: Any, required: Mapping[str, Any]) -> None:
    """Refuses a module with a field that a published class has at one value alone.

    Args:
        name: name of the published class.
        module: module to be written.
        required: required values by field.

    Raises:
        Refusal: naming the field.
    """
    for field, value in required.items():
        if getattr(module, field) != value:
            raise Refusal(f"{name}: {field} = {getattr(module, field)!r} cannot be written to it; only {value!r} can.")


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


def example(module: Any, channels: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The arguments of a call that shapes the parameters of a class-conditional network: one patch, a time, a label.

    Args:
        module: module with its `patch`.
        channels: number of channels of its images.
    """
    image = jax.ShapeDtypeStruct((1, module.patch, module.patch, channels), jnp.float32)
    return image, jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
