"""The blocks of a U-Net, in the order of its computation, for the tables of its names."""

from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.interchange.family import Refusal


class Box(NamedTuple):
    """A residual block of a U-Net, with the attention after it.

    Attributes:
        ours: its path among our parameters.
        part: "down", "middle" or "up".
        level: number of its level, counted from the finest.
        index: index in its level; None for a change of side.
        shortcut: whether it has a convolution beside its branch.
        attends: whether attention follows, at `ours` + "_attention".
    """

    ours: str
    part: str
    level: int
    index: int | None
    shortcut: bool
    attends: bool


def boxes(widths: tuple[int, ...], first: int, blocks: int, attends: tuple[bool, ...]) -> Iterator[Box]:
    """The boxes of a U-Net in the order of its computation, with the two of the middle.

    Args:
        widths: channels of each level.
        first: number of channels of the first convolution.
        blocks: number of blocks of a level.
        attends: whether each level has attention.
    """
    channels = first
    skips = [first]
    last = len(widths) - 1
    for level, width in enumerate(widths):
        for j in range(blocks):
            yield Box(f"down_{level}_block_{j}", "down", level, j, channels != width, attends[level])
            channels = width
            skips.append(channels)
        if level < last:
            yield Box(f"down_{level}_resample", "down", level, None, False, False)
            skips.append(channels)
    for j in (0, 1):
        yield Box(f"middle_block_{j}", "middle", last, j, False, j == 0)
    for level in reversed(range(len(widths))):
        for j in range(blocks + 1):
            yield Box(f"up_{level}_block_{j}", "up", level, j, channels + skips.pop() != widths[level], attends[level])
            channels = widths[level]
        if level:
            yield Box(f"up_{level}_resample", "up", level, None, False, False)


OF_IMAGES = {"axes": 2}
"""The fields of `UNet` that no other library's files can express."""
USUAL = {
    "middle_attention": True,
    "middle_groups": None,
    "middle_gain": 1.0,
    "centred": False,
    "activation": "silu",
    "learned_times": 0,
    "embedding_width": None,
    "vector_width": 0,
}
"""The fields of `UNet` that only diffusers' files can express."""


def only(name: str, module: nn.Module, **valid: tuple) -> None:
    """Refuses a module with a field that an architecture cannot express.

    Args:
        name: name of the architecture.
        module: our module.
        **valid: the valid values of a field.

    Raises:
        Refusal: naming the field.
    """
    for field, values in valid.items():
        if getattr(module, field) not in values:
            raise Refusal(
                f"{name}: {field} = {getattr(module, field)!r} cannot be written in this format. Valid: "
                f"{' and '.join(map(repr, values))}."
            )


def example(module: nn.Module) -> tuple:
    """Arguments of a call of any of these U-Nets, as small as possible."""
    side = 2 ** (len(module.widths) - 1)
    channels = getattr(module, "in_channels", None) or module.channels
    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    condition = {"label": jax.ShapeDtypeStruct((1,), jnp.int32)} if module.num_classes else {}
    vector = getattr(module, "vector_width", 0)
    condition |= {"vector": jax.ShapeDtypeStruct((1, vector), jnp.float32)} if vector else {}
    return image, jax.ShapeDtypeStruct((1,), jnp.float32), condition or None
