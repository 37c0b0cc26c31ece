"""The length that a film's container states for its file, which shows that a film was cut short."""

import struct
from typing import BinaryIO

EBML = b"\x1aE\xdf\xa3"  # how Matroska and WebM begin
SEGMENT = b"\x18S\x80g"  # the element that holds their film
BOXES = 10**6  # most boxes of an MP4; a fragment has two


def missing_bytes(file: BinaryIO, length: int) -> int:
    """How many bytes a film lacks at its end, by the sizes that its container states; 0 where it states none.

    Matroska and WebM state the size of their segment, AVI the size of its first chunk, and MP4 and MOV, fragmented or
    not, the size of each box. Streams of unknown size, and films that end between two boxes, look like complete ones.

    Args:
        file: the film, at any position.
        length: length of the file in bytes.
    """
    file.seek(0)
    head = file.read(4096)
    if head.startswith(EBML):
        end = _segment_end(head)
    elif head[:4] == b"RIFF" and len(head) >= 8:
        end = 8 + struct.unpack("<I", head[4:8])[0]
    elif head[4:8] == b"ftyp":
        end = _boxes_end(file, length)
    else:
        end = 0
    return max(end - length, 0)


def _number(head: bytes, at: int) -> tuple[int | None, int]:
    """An EBML number that begins at a byte, None if it stands for an unknown size; and where the next byte is."""
    if at >= len(head) or not head[at]:
        return None, at + 1
    width = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + width], "big") & (2 ** (7 * width) - 1)
    return (None if value == 2 ** (7 * width) - 1 else value), at + width


def _segment_end(head: bytes) -> int:
    """The byte after a Matroska file's segment; 0 where its beginning does not state it."""
    size, at = _number(head, len(EBML))
    at += size or 0
    if head[at : at + 4] != SEGMENT:
        return 0
    size, at = _number(head, at + 4)
    return 0 if size is None or at > len(head) else at + size


def _boxes_end(file: BinaryIO, length: int) -> int:
    """The end of the last box of an MP4."""
    at = 0
    for _ in range(BOXES):
        if at >= length:  # a box may state any size, beyond what a file can be
            break
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            break
        size = struct.unpack(">I", head[:4])[0]
        if size == 1 and len(head) == 16:
            size = struct.unpack(">Q", head[8:])[0]
        if size < 8:  # 0: up to the end of the file
            break
        at += size
    return at
