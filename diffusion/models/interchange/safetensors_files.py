"""Files of safetensors: the header is read once, and each tensor from its own bytes; written tensor after tensor."""

__all__ = ["Stored", "read", "write"]

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from diffusion.io import files, limits

SUFFIX = ".safetensors"
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
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class Stored(NamedTuple):
    """Where a tensor lies in a file.

    Attributes:
        path: of the file.
        name: in the file, for messages.
        kind: its type, as the header writes it.
        shape: its sides.
        begin: of its bytes in the file.
        size: of them.
    """

    path: pathlib.Path
    name: str
    kind: str
    shape: tuple[int, ...]
    begin: int
    size: int

    def read(self) -> np.ndarray:
        """The tensor, in its stored type.

        Raises:
            limits.Refused: for an unsupported type, or a file that has become shorter.
        """
        if self.kind not in DTYPES:
            raise limits.Refused(
                f"{self.path}: {self.name} is stored as {self.kind}, which is not read; save it as "
                "float32, float16 or bfloat16."
            )
        array = np.empty(self.shape, DTYPES[self.kind])
        with open(self.path, "rb") as file:
            file.seek(self.begin)
            if file.readinto(array.reshape(-1).view(np.uint8).data) != self.size:
                raise limits.Refused(f"{self.path} ends within {self.name}: it was cut short.")
        return array


def read(path: pathlib.Path) -> dict[str, Stored]:
    """The tensors of a file by their names; of the file the header alone is read.

    Raises:
        limits.Refused: for a file that is not whole, or not in the format.
    """
    try:
        with safetensors.safe_open(path, framework="numpy"):  # checks the header, and the file's length
            pass
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (safetensors.SafetensorError, OSError) as error:
        raise limits.Refused(f"{path} is not a whole safetensors file: {error}.") from error
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        found[name] = Stored(path, name, entry["dtype"], tuple(entry["shape"]), 8 + size + begin, end - begin)
    return found


def write(
    path: pathlib.Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    tensors: Iterator[tuple[str, np.ndarray]],
    metadata: Mapping[str, str],
) -> None:
    """Writes one file, which appears whole; memory holds one tensor at a time.

    Args:
        path: of the file.
        shapes: of all tensors by their names, in the order of `tensors`.
        dtype: of all.
        tensors: (name, array) pairs.
        metadata: texts for the header.
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
    with files.whole(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            given, array = next(tensors)
            if (given, array.shape, array.dtype) != (name, tuple(shape), np.dtype(dtype)):
                raise ValueError(
                    f"{path}: {given} {array.shape} {array.dtype}, and the header has {name} {shape} {dtype}"
                )
            file.write(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
            del array  # before the next is made
