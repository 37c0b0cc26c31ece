"""Files of safetensors: the header is read once, and each tensor is mapped; they are written tensor after tensor.

size of the header u64, the header in JSON, the bytes of the tensors one after another
{"__metadata__": {name: text}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ..}
"""

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors.numpy import save as serialized

from diffusion.io import files, limits, opener

SUFFIX = ".safetensors"
HEADER = 2**23  # bytes
TENSORS = 2**16  # most tensors of a file; the largest published models have a few thousand
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NONE: Mapping[str, str] = MappingProxyType({})
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class Stored(NamedTuple):
    """The position of a tensor in a file.

    Attributes:
        path: the file.
        name: the tensor's name in the file, for messages.
        kind: the tensor's type, as the header writes it.
        shape: the tensor's shape.
        begin: the position of its first byte in the file.
        size: the number of its bytes.
    """

    path: pathlib.Path
    name: str
    kind: str
    shape: tuple[int, ...]
    begin: int
    size: int

    @property
    def dtype(self) -> np.dtype | None:
        """The type of the array that `read` returns; None for an unsupported type."""
        return np.dtype(DTYPES[self.kind]) if self.kind in DTYPES else None

    def read(self) -> np.ndarray:
        """The tensor, in its stored type: a map of the file, not writable, so that memory holds only what is used.

        The map, and an open file with it, lasts as long as the array. Whoever keeps many tensors copies them.

        Raises:
            limits.Refused: for an unsupported type, or a file that has become shorter.
        """
        dtype = self.dtype
        if dtype is None:
            raise limits.Refused(
                f"{self.path}: {self.name} is stored as {self.kind}, which is not supported; save it as float32, "
                "float16 or bfloat16."
            )
        with opener.open_file(self.path) as file:
            if os.fstat(file.fileno()).st_size < self.begin + self.size:
                raise limits.Refused(f"{self.path} is truncated: it ends within {self.name}.")
            if self.size == 0:  # a map has at least one byte
                return np.empty(self.shape, dtype)
            return np.asarray(np.memmap(file, dtype, "r", self.begin, self.shape))


class Header(NamedTuple):
    """The header of a file.

    Attributes:
        tensors: places of the tensors, by their names.
        metadata: texts beside the tensors, by their names.
    """

    tensors: dict[str, Stored]
    metadata: dict[str, str]


def header(path: pathlib.Path) -> Header:
    """The header of a file; no tensor is read.

    Raises:
        OSError: if it cannot be read.
        limits.Refused: for a file that is not whole, or not in the format, or declares more than `HEADER` bytes or
            `TENSORS` tensors.
    """
    with opener.open_file(path) as file:
        length = os.fstat(file.fileno()).st_size
        size = int.from_bytes(file.read(8), "little")
        if length < 8 or size > length - 8:
            raise _refused(path, f"it has {length} bytes, but declares a header of {size}")
        if size > HEADER:
            raise limits.Refused(
                f"{path} declares a header of {limits.size(size)}. Valid: at most {limits.size(HEADER)}."
            )
        text = file.read(size)
    table = limits.parse_json(text, f"the header of {path}")
    if not isinstance(table, dict):
        raise _refused(path, f"its header is {limits.kind(table)} instead of a table")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _refused(path, "its __metadata__ is not a table of texts")
    if len(table) > TENSORS:
        raise limits.Refused(f"{path} declares {len(table):,} tensors. Valid: at most {TENSORS:,} in a file.")
    tensors = {name: _entry(path, name, entry, 8 + size) for name, entry in table.items()}
    end = 8 + size
    for one in sorted(tensors.values(), key=lambda one: (one.begin, one.size)):
        if one.begin != end:
            raise _refused(path, f"{one.name} begins at byte {one.begin}, but what comes before it ends at {end}")
        end += one.size
    if end != length:
        raise _refused(path, f"it has {length} bytes, but declares {end}")
    return Header(tensors, metadata)


def _entry(path: pathlib.Path, name: str, entry: Any, begin: int) -> Stored:
    """The position of one tensor, whose bytes must be as many as its shape and type need."""
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    kind, offsets = fields.get("dtype"), fields.get("data_offsets")
    shape: Any = fields.get("shape")  # `array_bytes` refuses what is no shape
    match offsets:
        case [int(first), int(last)] if isinstance(kind, str) and 0 <= first <= last and bool not in map(type, offsets):
            size = last - first
        case _:
            raise _refused(path, f"its entry for {limits.short(name)} is {limits.short(entry)}")
    declared = limits.array_bytes(f"{path}: {limits.short(name)}", shape, np.dtype(DTYPES.get(kind, np.uint8)).itemsize)
    if kind in DTYPES and declared != size:
        raise _refused(path, f"{limits.short(name)} has {size} bytes, but {kind} {shape} would need {declared}")
    return Stored(path, name, kind, tuple(shape), begin + first, size)


def _refused(path: pathlib.Path, why: str) -> limits.Refused:
    return limits.Refused(f"{path} is not a whole safetensors file: {why}.")


def load(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by their names, in their stored types.

    Raises:
        OSError: if it cannot be read.
        limits.Refused: as in `header` and `Stored.read`, or for more than this machine's memory.
    """
    tensors = header(path).tensors
    limits.fits(str(path), sum(one.size for one in tensors.values()))
    return {name: np.array(one.read()) for name, one in tensors.items()}


def save(path: str | pathlib.Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] = NONE) -> None:
    """Writes one file of arrays that fit into memory, as PyTorch's programs do; it appears whole.

    Args:
        path: the file.
        tensors: {name: array}.
        metadata: the texts of the header, by name.
    """
    arrays = {name: np.array(array, order="C") for name, array in tensors.items()}
    with files.atomic(pathlib.Path(path).expanduser()) as file:
        file.write(serialized(arrays, metadata={**metadata, "format": "pt"}))


def write(
    path: pathlib.Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    tensors: Iterator[tuple[str, np.ndarray]],
    metadata: Mapping[str, str],
) -> None:
    """Writes one file, which appears whole; memory holds one tensor at a time.

    Args:
        path: the file.
        shapes: {name: shape} of all tensors, in the order of `tensors`.
        dtype: the dtype of all tensors.
        tensors: pairs (name, array).
        metadata: the texts of the header, by name.

    Raises:
        ValueError: if a tensor is not the next one in `shapes`, in its shape and the dtype.
    """
    itemsize = np.dtype(dtype).itemsize
    header: dict = {"__metadata__": dict(metadata)}
    begin = 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape) * itemsize
        header[name] = {"dtype": NAMES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns what follows
    with files.atomic(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            given, array = next(tensors)
            if (given, array.shape, array.dtype) != (name, tuple(shape), np.dtype(dtype)):
                raise ValueError(
                    f"{path}: the header announced {name} {shape} {dtype}, but the next array is {given} "
                    f"{array.shape} {array.dtype}"
                )
            file.write(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
            del array  # before the next is made
