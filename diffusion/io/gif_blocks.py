"""The blocks of a GIF animation: the sizes and the times of its frames; no frame is decoded.

Reference: CompuServe, "Graphics Interchange Format, Version 89a", 1990.
"""

from typing import NamedTuple

FRAMES = 100_000  # most frames of an animation: 55 minutes at 30 frames a second
STEP = 0.1  # seconds for which browsers show a frame that states no time


class Blocks(NamedTuple):
    """The properties that a GIF animation states.

    Attributes:
        height, width: height and width of the animation in pixels.
        shown: the time for which each frame is shown, in seconds.
        pixels: the number of pixels that must be decoded to show each frame: those of all frames up to it.
    """

    height: int
    width: int
    shown: tuple[float, ...]
    pixels: tuple[int, ...]


def read(content: bytes, name: str) -> Blocks:
    """Reads the blocks up to the end that the format marks.

    Args:
        content: the file.
        name: the name of the file in messages.

    Raises:
        ValueError: if the content is not a GIF, is cut short, or holds an unknown kind of block, no frame, or more than
            `FRAMES` frames.
    """
    if content[:4] != b"GIF8" or len(content) < 13:
        raise ValueError(f"{name} is not a GIF animation, or is truncated")
    width, height = int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little")
    at = 13 + _table(content[10])
    shown: list[float] = []
    pixels: list[int] = []
    step = STEP
    complete = 0
    try:
        while content[at] != 0x3B:
            kind = content[at]
            if kind == 0x21:  # an extension: its label, then its blocks
                if content[at + 1] == 0xF9 and content[at + 2] >= 4:
                    step = int.from_bytes(content[at + 4 : at + 6], "little") / 100 or STEP
                at = _skipped(content, at + 2)
            elif kind == 0x2C:  # a frame: its place, its colours, then its blocks
                sides = (
                    int.from_bytes(content[at + 5 : at + 7], "little"),
                    int.from_bytes(content[at + 7 : at + 9], "little"),
                )
                pixels.append((pixels[-1] if pixels else 0) + sides[0] * sides[1])
                shown.append(step)
                step = STEP
                if len(shown) > FRAMES:
                    raise ValueError(f"{name} holds more than {FRAMES:,} frames: split it into several files")
                at = _skipped(content, at + 10 + _table(content[at + 9]) + 1)
                complete += 1
            else:
                raise ValueError(f"{name} is damaged: after {len(shown)} frames it has a block of kind {kind}")
    except IndexError:
        raise ValueError(f"{name} is truncated: it has {complete} complete frames, and its end is missing") from None
    if not shown:
        raise ValueError(f"{name} holds no frames")
    return Blocks(height, width, tuple(shown), tuple(pixels))


def _table(flags: int) -> int:
    """The size in bytes of the table of colours that the flags of a screen or frame announce; 0 without a table."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _skipped(content: bytes, at: int) -> int:
    """The position behind a sequence of blocks. A block begins with its length, and the last block is empty."""
    while length := content[at]:
        at += 1 + length
    return at + 1
