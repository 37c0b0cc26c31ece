"""Files of GGUF (`pip install jax-diffusion[gguf]`): tensors in blocks of few bits, read one by one.

| stored                                          | is read as                                                |
|-------------------------------------------------|-----------------------------------------------------------|
| F32, F16, BF16                                  | that type                                                 |
| Q8_0                                            | int8 with a scale for 32 of them, or float32              |
| Q4_0, Q4_1, Q5_0, Q5_1, Q2_K ... Q6_K, IQ...    | float32, by the functions of the package gguf             |

Their names are those of the original repositories' single files.
"""

__all__ = ["Stored", "read"]

import functools
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from diffusion.io import limits
from diffusion.models.interchange.quantised_tensors import Quantised

SUFFIX = ".gguf"
ORIGINAL = "comfy.gguf.orig_shape."  # of a tensor whose sides no block divides
BLOCK = 32  # values of a block of Q8_0, behind a float16


class Stored(NamedTuple):
    """Where a tensor lies in a file.

    Attributes:
        path: of the file.
        name: in the file.
        kind: its type, of gguf's.
        shape: its sides, as PyTorch counts them.
        sides: those that it is stored with.
        begin: of its bytes in the file.
        size: of them.
    """

    path: pathlib.Path
    name: str
    kind: Any
    shape: tuple[int, ...]
    sides: tuple[int, ...]
    begin: int
    size: int

    def _bytes(self) -> np.ndarray:
        content = np.fromfile(self.path, np.uint8, self.size, offset=self.begin)
        if content.size != self.size:
            raise limits.Refused(f"{self.path} ends within {self.name}: it was cut short.")
        return content

    def quantised(self) -> Quantised | None:
        """Values and scales of a tensor in Q8_0; None for one of another type."""
        if self.kind.name != "Q8_0" or self.sides != self.shape:
            return None
        blocks = self._bytes().reshape(*self.shape[:-1], -1, 2 + BLOCK)
        values = np.ascontiguousarray(blocks[..., 2:]).view(np.int8).reshape(self.shape)
        return Quantised(values, np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0])

    def read(self) -> np.ndarray:
        """The tensor, in float32, or the type of floats that it is stored in.

        Raises:
            limits.Refused: for an unsupported type, or a file that has become shorter.
        """
        import gguf

        plain = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
        if self.kind.name in plain:
            return self._bytes().view(plain[self.kind.name]).reshape(self.shape)
        rows = self._bytes().reshape(-1, self.size // max(1, int(np.prod(self.sides[:-1]))))
        try:
            return gguf.dequantize(rows, self.kind).reshape(self.shape)
        except NotImplementedError as error:
            raise limits.Refused(
                f"{self.path}: {self.name} is stored as {self.kind.name}, which is not read; take the file in Q8_0, "
                "Q6_K, Q5_K, Q4_K or BF16."
            ) from error


def read(path: pathlib.Path) -> dict[str, Stored]:
    """The tensors of a file by their names; of the file the header alone is read.

    Raises:
        limits.Refused: for a file that is not whole, or not in the format, or without the package gguf; says how to
            install it.
    """
    try:
        kind = _reader()
    except ImportError as error:
        raise limits.Refused(
            f"{path}: files of GGUF need the package gguf: pip install 'jax-diffusion[gguf]'."
        ) from error
    try:
        reader = kind(path)
    except (ValueError, LookupError, TypeError, OverflowError, MemoryError, UnicodeDecodeError) as error:
        raise limits.Refused(f"{path} is not a whole GGUF file: {limits.reason(error)}.") from error
    if reader.endianess.name != "LITTLE":
        raise limits.Refused(f"{path} is a GGUF file in big-endian order, which is not read.")
    found = {}
    for tensor in reader.tensors:
        sides = tuple(int(side) for side in reversed(tensor.shape.tolist()))
        field = reader.get_field(ORIGINAL + tensor.name)
        shape = tuple(int(field.parts[i][0]) for i in field.data) if field else sides
        if np.prod(shape, dtype=object) != np.prod(sides, dtype=object):
            raise limits.Refused(
                f"{path}: {tensor.name} has the shape {list(sides)}, and its field says {list(shape)}."
            )
        begin, size = int(tensor.data_offset), int(tensor.n_bytes)
        found[tensor.name] = Stored(path, tensor.name, tensor.tensor_type, shape, sides, begin, size)
    return found


@functools.cache
def _reader() -> Any:
    import gguf

    class Reader(gguf.GGUFReader):
        """Theirs, which stops where the file does: a length beyond it would be counted to its end."""

        def _get(self, offset, dtype, count=1, *more, **named):
            end = int(offset) + int(count) * np.dtype(dtype).itemsize
            if end > len(self.data):
                raise ValueError(f"it ends at {len(self.data)} bytes, and byte {end} is to be read")
            return super()._get(offset, dtype, count, *more, **named)

    return Reader
