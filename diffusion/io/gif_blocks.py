"""The blocks of a GIF file, counted without decoding: whether it is there to its end."""

__all__ = ["require_whole"]

from typing import BinaryIO

EXTENSION, FRAME, TRAILER = b"\x21", b"\x2c", b"\x3b"
HEADER = 13  # bytes before the global table of colours
DESCRIPTOR = 9  # bytes of a frame before its own table of colours


class _Short(Exception):
    """The file ends inside a block."""


def require_whole(file: BinaryIO, name: str) -> None:
    """Refuses a GIF file without its end; Pillow takes what is there for all of it. The position in it stays.

    Args:
        file: of which the header has been checked.
        name: of it, for the message.

    Raises:
        ValueError: if it ends before its trailer, with the number of frames that are whole.
    """
    position = file.tell()
    frames = 0
    try:
        file.seek(0)
        _skip_colours(file, _taken(file, HEADER)[10])
        while (kind := _taken(file, 1)) != TRAILER:
            if kind == EXTENSION:
                _taken(file, 1)
            elif kind == FRAME:
                _skip_colours(file, _taken(file, DESCRIPTOR)[8])
                _taken(file, 1)
            else:
                raise ValueError(f"{name} is damaged: after {frames} frames it has a block of kind {kind[0]}")
            while size := _taken(file, 1)[0]:
                _taken(file, size)
            frames += kind == FRAME
    except _Short:
        raise ValueError(f"{name} is cut short: {frames} frames are whole, and its end is missing") from None
    finally:
        file.seek(position)


def _taken(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise _Short
    return content


def _skip_colours(file: BinaryIO, flags: int) -> None:
    """Passes over a table of colours, where the flags before it say that there is one."""
    if flags & 0x80:
        _taken(file, 3 * 2 ** (1 + (flags & 7)))
