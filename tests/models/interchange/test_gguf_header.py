"""Headers of GGUF that a stranger may write: read without counting to what they declare, or refused."""

import io
import struct

import gguf
import numpy as np
import pytest

from diffusion.io import limits
from diffusion.models.interchange import gguf_header, tensor_files

BOOL, TEXT, LIST = 7, 8, 9  # the types of values, by the format's specification


class Counted(io.BytesIO):
    """A file that counts how often it is asked."""

    calls = 0

    def read(self, *size):
        self.calls += 1
        return super().read(*size)

    def seek(self, *where):
        self.calls += 1
        return super().seek(*where)


def word(text):
    return struct.pack("<Q", len(text)) + text.encode()


def field(name, kind, value):
    return word(name) + struct.pack("<I", kind) + value


def header(*fields, tensors=()):
    return b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)) + b"".join((*fields, *tensors))


def tensor(name, sides, kind=0, offset=0):
    return word(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)


def read(content):
    return gguf_header.read(io.BytesIO(content), len(content))


def test_a_list_of_three_million_is_passed_over_at_once():
    number = 3_000_000
    content = header(field("many", LIST, struct.pack("<IQ", BOOL, number) + b"\1" * number))
    file = Counted(content)
    assert gguf_header.read(file, len(content)) == gguf_header.Header({}, [], -(-len(content) // 32) * 32)
    assert file.calls < 20


@pytest.mark.parametrize(
    "content, words",
    [
        (header(field("deep", LIST, struct.pack("<IQ", LIST, 1) * 3000)), "a value has the type 9. Valid: 0, 1,"),
        (header(field("texts", LIST, struct.pack("<IQ", TEXT, 2**20 + 1))), "declares 1,048,577 texts"),
        (header(field("a", BOOL, b"\1"), field("a", BOOL, b"\1")), "the field 'a' is there twice"),
        (header(tensors=[tensor("a", [2]), tensor("a", [2])]), "the tensor 'a' is there twice"),
        (header(tensors=[tensor("a", [1] * 9)]), "the tensor 'a' has 9 sides. Valid: at most 8"),
        (header(field("general.alignment", 4, struct.pack("<I", 48))), r"general.alignment is \(48,\). Valid: a power"),
        (header(field("general.alignment", LIST, struct.pack("<IQ", 4, 0))), r"general.alignment is \(\)"),
        (header(word("x" * 70_000)), "a name has 70,000 bytes"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "declares 1,099,511,627,776 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "declares 1,099,511,627,776 fields"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "of version 9. Valid: 2, 3"),
    ],
)
def test_a_header_without_end_is_refused(content, words):
    with pytest.raises(ValueError, match=words):
        read(content + b"\0" * 100)


@pytest.mark.parametrize(
    "entry, words",
    [
        (tensor("a", [2**40]), "bytes, but its tensors end at byte 4398046511168"),
        (tensor("a", [2**63, 2**63, 2**63]), "its tensors end at"),
        (tensor("a", [2**40, 0], kind=8), r"a\.gguf: a has the sides \[0, 1099511627776\], so it holds no numbers"),
        (tensor("a", [33], kind=8), r"a\.gguf: a has the sides \[33\]\. Valid: whole blocks of 32 values"),
        (tensor("a", [2], kind=4_000), "a has the type 4000, which the package gguf does not know"),
    ],
)
def test_a_tensor_that_no_file_holds_is_refused(tmp_path, entry, words):
    path = tmp_path / "a.gguf"
    path.write_bytes(header(tensors=[entry]) + b"\0" * 4096)
    with pytest.raises(limits.Refused, match=words):
        tensor_files.open_tensors(path)


def test_it_is_read_as_the_package_gguf_reads_it(tmp_path):
    """Fields of every type and tensors of several, written by that package."""
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_array("words", ["a", "b", ""])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_float64("half", 0.5)
    writer.add_bool("yes", True)
    writer.add_custom_alignment(64)
    for name, shape in {"first": (3, 5), "second": (7,), "third": (2, 1, 4)}.items():
        writer.add_tensor(name, np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    mine, theirs = read(path.read_bytes()), gguf.GGUFReader(path)
    assert mine.begin == theirs.data_offset
    assert [(entry.name, entry.sides, entry.kind, mine.begin + entry.offset) for entry in mine.entries] == [
        (one.name, tuple(one.shape.tolist()[::-1]), one.tensor_type, one.data_offset) for one in theirs.tensors
    ]
    assert mine.fields["numbers"] == (1, 2, 3) and mine.fields["half"] == (0.5,) and mine.fields["yes"] == (True,)
