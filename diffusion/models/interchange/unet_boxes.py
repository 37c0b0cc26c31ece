"""The blocks of a U-Net, in the order of its computation, for the tables of its names, and EDM's names of them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from diffusion.models.interchange.family import Refusal, array


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


class NamedBox(NamedTuple):
    """A box with its name in the files of EDM and EDM2.

    Attributes:
        box: the box, with the level of its output's side.
        theirs: their name, "enc.32x32_block0".
    """

    box: Box
    theirs: str


def named_boxes(module: Any, first: int, attends: tuple[bool, ...]) -> Iterator[NamedBox]:
    """The boxes of a network by the names of EDM's repository.

    Args:
        module: a network with `widths`, `blocks` and `resolution`.
        first, attends: arguments of `boxes`.

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
    """A named box with our path of a network where a change of side has the number of the level after it."""
    return box if box.index is not None else box._replace(ours=f"{box.part}_{box.level}_resample")


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


def example(module: nn.Module) -> tuple:
    """Arguments of a call of any of these U-Nets, as small as possible."""
    side = 2 ** (len(module.widths) - 1)
    channels = getattr(module, "in_channels", None) or module.channels
    condition = {"label": array(1, dtype=jnp.int32)} if module.num_classes else {}
    vector = getattr(module, "vector_width", 0)
    condition |= {"vector": array(1, vector)} if vector else {}
    return array(1, side, side, channels), array(1), condition or None
