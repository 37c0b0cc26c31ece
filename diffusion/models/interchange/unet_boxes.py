"""The blocks of a U-Net in the order of its computation, for tables of weights' names, and the names in EDM's files."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from diffusion.models.interchange.family import Refusal, array


class Box(NamedTuple):
    """A residual block of a U-Net with the attention after it, or a block that changes the side.

    Attributes:
        ours: the path of the block in our parameters.
        part: "down", "middle" or "up".
        level: number of the block's level, counted from the finest.
        index: index of the block in its level; None for a change of side.
        shortcut: whether the block has a convolution beside its branch.
        attends: whether attention follows, whose path is `ours` + "_attention".
    """

    ours: str
    part: str
    level: int
    index: int | None
    shortcut: bool
    attends: bool


def boxes(widths: tuple[int, ...], first: int, blocks: int, attends: tuple[bool, ...]) -> Iterator[Box]:
    """The boxes of a U-Net in the order of its computation, including the two of the middle.

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


class NamedBox(NamedTuple):
    """A box with its name in the files of EDM and EDM2.

    Attributes:
        box: the box; its level is the level of its output.
        theirs: the name in the files, e.g. "enc.32x32_block0".
    """

    box: Box
    theirs: str


def named_boxes(module: Any, first: int, attends: tuple[bool, ...]) -> Iterator[NamedBox]:
    """The boxes of a network with their names in EDM's repository.

    Args:
        module: a network with `widths`, `blocks` and `resolution`.
        first: number of channels of the first convolution.
        attends: whether each level has attention.

    Raises:
        Refusal: for a network without a resolution.
    """
    if module.resolution is None:
        raise Refusal(
            "the names contain the resolution, but this network has none; set it by module.clone(resolution=64)"
        )
    for box in boxes(module.widths, first, module.blocks, attends):
        level, kind = box.level, f"block{box.index}"
        if box.index is None:
            level += 1 if box.part == "down" else -1
            kind = box.part
        elif box.part == "middle":
            kind = f"in{box.index}"
        side = module.resolution >> level
        yield NamedBox(box._replace(level=level), f"{'enc' if box.part == 'down' else 'dec'}.{side}x{side}_{kind}")


def named_after_level(box: Box) -> Box:
    """The same box, but the path of a change of side has the number of the level after the change."""
    return box if box.index is not None else box._replace(ours=f"{box.part}_{box.level}_resample")


OF_IMAGES = {"axes": 2}
"""The fields of `UNet` that have this one value in all files of other libraries."""
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
"""The fields of `UNet` that have these values in all files of other libraries but diffusers'."""


def example(module: nn.Module) -> tuple:
    """Arguments of a call of any of these U-Nets, as small as possible."""
    side = 2 ** (len(module.widths) - 1)
    channels = getattr(module, "in_channels", None) or module.channels
    condition = {"label": array(1, dtype=jnp.int32)} if module.num_classes else {}
    vector = getattr(module, "vector_width", 0)
    condition |= {"vector": array(1, vector)} if vector else {}
    return array(1, side, side, channels), array(1), condition or None
