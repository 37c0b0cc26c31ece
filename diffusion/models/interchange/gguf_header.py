"""The header of a GGUF file: which tensors it holds and where, and the short fields of numbers beside them.

    "GGUF"  version u32  tensors u64  fields u64
    fields: name, type u32, value; a list is type u32, length u64, elements; a text is length u64, bytes
    tensors: name, axes u32, sides u64 each (the fastest first), kind u32, offset u64 after the aligned header

Long values are passed over, not read. Lists in lists are refused, as ggml refuses them.
"""

import math
import struct
from typing import BinaryIO, NamedTuple

MAGIC, VERSIONS = b"GGUF", (2, 3)
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # struct's
TEXT, LIST = 8, 9  # types
KEPT = 8  # numbers of a list; a tensor has at most so many sides
NAME = 2**16  # bytes
ENTRIES = 2**16  # fields, and tensors
TEXTS = 2**20  # most texts in a list; the largest vocabularies have 2^18 words and as many merges
ALIGNMENT = "general.alignment"


class Entry(NamedTuple):
    """A tensor.

    Attributes:
        name: its name.
        kind: the number of its type.
        sides: its sides, the slowest first, as NumPy counts them.
        offset: the number of bytes from `Header.begin` to its own.
    """

    name: str
    kind: int
    sides: tuple[int, ...]
    offset: int


class Header(NamedTuple):
    """The header of a file.

    Attributes:
        fields: the numbers of each field that holds at most `KEPT` of them, by its name.
        entries: the tensors.
        begin: the place of the tensors' bytes in the file.
    """

    fields: dict[str, tuple]
    entries: list[Entry]
    begin: int


def read(file: BinaryIO, length: int) -> Header:
    """Reads the header of a file.

    Args:
        file: the file, at its beginning.
        length: the number of its bytes.

    Raises:
        ValueError: for another format, a header that ends too early, or one of more than `ENTRIES` fields or tensors,
            or `TEXTS` texts.
    """
    header = _Cursor(file, length)
    if header.take(4) != MAGIC:
        raise ValueError("GGUF magic invalid")
    (version,) = header.numbers("I")
    if version & 0xFFFF == 0:
        raise ValueError("it is in big-endian order, which is not supported")
    if version not in VERSIONS:
        raise ValueError(f"it is of version {version}. Valid: {', '.join(map(str, VERSIONS))}")
    counts = header.numbers("QQ")
    for count, what in zip(counts, ("tensors", "fields")):
        if count > ENTRIES:
            raise ValueError(f"it declares {count:,} {what}. Valid: at most {ENTRIES:,}")
    tensors, number = counts
    fields: dict[str, tuple | None] = {}
    for _ in range(number):
        name = header.name()
        if name in fields:
            raise ValueError(f"the field {name!r} is there twice")
        fields[name] = header.value()
    entries: dict[str, Entry] = {}
    for _ in range(tensors):
        name = header.name()
        if name in entries:
            raise ValueError(f"the tensor {name!r} is there twice")
        (axes,) = header.numbers("I")
        if axes > KEPT:
            raise ValueError(f"the tensor {name!r} has {axes} sides. Valid: at most {KEPT}")
        *sides, kind, offset = header.numbers(f"{axes}QIQ")
        entries[name] = Entry(name, kind, tuple(reversed(sides)), offset)
    known = {name: numbers for name, numbers in fields.items() if numbers is not None}
    alignment = known.get(ALIGNMENT, (32,))
    if len(alignment) != 1 or type(alignment[0]) is not int or alignment[0] < 1 or alignment[0].bit_count() != 1:
        raise ValueError(f"its {ALIGNMENT} is {alignment}. Valid: a power of two")
    return Header(known, list(entries.values()), math.ceil(header.at / alignment[0]) * alignment[0])


class _Cursor:
    """A position in the header; nothing behind the end of the file is read."""

    def __init__(self, file: BinaryIO, length: int):
        self._file, self._length = file, length
        self.at = 0
        self._texts = 0

    def _move(self, size: int) -> None:
        self.at += size
        if self.at > self._length:
            raise ValueError(f"it has {self._length} bytes, but its header goes on at byte {self.at}")

    def take(self, size: int) -> bytes:
        self._move(size)
        content = self._file.read(size)
        if len(content) != size:
            raise ValueError("it became shorter while it was read")
        return content

    def skip(self, size: int) -> None:
        self._move(size)
        self._file.seek(size, 1)

    def numbers(self, form: str) -> tuple:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

    def name(self) -> str:
        (size,) = self.numbers("Q")
        if size > NAME:
            raise ValueError(f"a name has {size:,} bytes. Valid: at most {NAME:,}")
        return self.take(size).decode("utf-8")

    def value(self) -> tuple | None:
        """The numbers of a value that is short; None for another, which is passed over."""
        (kind,) = self.numbers("I")
        if kind != LIST:
            return self._elements(kind, 1)
        kind, count = self.numbers("IQ")
        return self._elements(kind, count)

    def _elements(self, kind: int, count: int) -> tuple | None:
        if kind == TEXT:
            self._texts += count
            if self._texts > TEXTS:
                raise ValueError(f"it declares {self._texts:,} texts. Valid: at most {TEXTS:,}")
            for _ in range(count):
                self.skip(*self.numbers("Q"))
            return None
        if kind not in NUMBERS:
            raise ValueError(f"a value has the type {kind}. Valid: {', '.join(map(str, sorted({*NUMBERS, TEXT})))}")
        if count <= KEPT:
            return self.numbers(f"{count}{NUMBERS[kind]}")
        self.skip(count * struct.calcsize(f"<{NUMBERS[kind]}"))
        return None
