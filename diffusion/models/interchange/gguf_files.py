"""Files of GGUF (`pip install jax-diffusion[gguf]`): tensors in blocks of few bits, read one by one.

| stored                                          | is read as                                                |
|-------------------------------------------------|-----------------------------------------------------------|
| F32, F16, BF16                                  | that type                                                 |
| Q8_0                                            | int8 with a scale for 32 of them, or float32              |
| Q4_0, Q4_1, Q5_0, Q5_1, Q2_K ... Q6_K, IQ...    | float32, by the functions of the package gguf             |

Denoisers have the names of the original repositories' single files, text encoders llama.cpp's (`gguf_names`).
"""

import math
import os
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from diffusion.io import limits, opener
from diffusion.models.interchange import gguf_header, gguf_names
from diffusion.models.interchange.quantised_tensors import Quantised

SUFFIX = ".gguf"
ORIGINAL = "comfy.gguf.orig_shape."  # the shape of a tensor whose sides no block divides
BLOCK = 32  # values of a block of Q8_0, behind a float16
PLAIN = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class Stored(NamedTuple):
    """The place of a tensor in a file.

    Attributes:
        path: the file.
        name: its name in the file.
        kind: its type, one of gguf's.
        shape: its sides, as PyTorch counts them.
        sides: sides that it is stored with.
        begin: position of its first byte in the file.
        size: number of its bytes.
        heads, added: changes by llama.cpp, see `gguf_names.Meaning`.
    """

    path: pathlib.Path
    name: str
    kind: Any
    shape: tuple[int, ...]
    sides: tuple[int, ...]
    begin: int
    size: int
    heads: int = 0
    added: int = 0

    def _bytes(self) -> np.ndarray:
        content = np.empty(self.size, np.uint8)
        with opener.open_file(self.path) as file:
            file.seek(self.begin)
            if file.readinto(content.data) != self.size:
                raise limits.Refused(f"{self.path} is truncated: it ends within {self.name}.")
        return content

    @property
    def dtype(self) -> np.dtype:
        """The type of the array that `read` returns."""
        return np.dtype(PLAIN.get(self.kind.name, np.float32))

    def quantised(self) -> Quantised | None:
        """Values and scales of a tensor in Q8_0; None for a tensor of another type."""
        if self.kind.name != "Q8_0" or self.sides != self.shape or self.added:
            return None
        blocks = self._bytes().reshape(*self.shape[:-1], -1, 2 + BLOCK)
        values = np.ascontiguousarray(blocks[..., 2:]).view(np.int8).reshape(self.shape)
        scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
        return Quantised(*map(self._in_order, (values, scales)))

    def _in_order(self, rows: np.ndarray) -> np.ndarray:
        return gguf_names.paired_halves(rows, self.heads) if self.heads else rows

    def read(self) -> np.ndarray:
        """The tensor, in float32, or the type of floats that it is stored in.

        Raises:
            limits.Refused: for an unsupported type, or a file that has become shorter.
        """
        array = self._in_order(self._stored())
        return array - np.asarray(self.added, array.dtype) if self.added else array

    def _stored(self) -> np.ndarray:
        """The tensor as llama.cpp has it."""
        import gguf

        if self.kind.name in PLAIN:
            return self._bytes().view(self.dtype).reshape(self.shape)
        rows = self._bytes().reshape(-1, self.size // max(1, int(np.prod(self.sides[:-1]))))
        try:
            return gguf.dequantize(rows, self.kind).reshape(self.shape)
        except NotImplementedError as error:
            raise limits.Refused(
                f"{self.path}: {self.name} is stored as {self.kind.name}, which is not supported; use the file in "
                "Q8_0, Q6_K, Q5_K, Q4_K or BF16."
            ) from error


def read(path: pathlib.Path) -> dict[str, Stored]:
    """The tensors of a file by their names, a text encoder's by transformers' names; only the header is read.

    Raises:
        OSError: if it cannot be read.
        limits.Refused: for a file that is not whole, or not in the format, or without the package gguf; says how to
            install it.
    """
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise limits.Refused(
            f"{path}: GGUF files can only be read with the package gguf: pip install 'jax-diffusion[gguf]'."
        ) from error
    with opener.open_file(path) as file:
        length = os.fstat(file.fileno()).st_size
        try:
            header = gguf_header.read(file, length)
        except ValueError as error:
            raise limits.Refused(f"{path} is not a complete GGUF file: {limits.reason(error)}.") from error
    meanings = gguf_names.meanings((entry.name for entry in header.entries), header.fields, path)
    tensors = {}
    for entry in header.entries:
        what = f"{path}: {entry.name}"
        if entry.kind not in GGMLQuantizationType._value2member_map_:
            raise limits.Refused(f"{what} has the type {entry.kind}, which the package gguf does not know.")
        kind = GGMLQuantizationType(entry.kind)
        block, size = GGML_QUANT_SIZES[kind]
        number = math.prod(entry.sides)
        if number == 0:
            raise limits.Refused(f"{what} has the sides {list(entry.sides)}, so it holds no numbers.")
        if (entry.sides and entry.sides[-1] % block) or (not entry.sides and block > 1):
            raise limits.Refused(f"{what} has the sides {list(entry.sides)}. Valid: whole blocks of {block} values.")
        begin, size = header.begin + entry.offset, number // block * size
        if begin + size > length:
            raise limits.Refused(
                f"{path} is not a complete GGUF file: it has {length} bytes, but its tensors end at byte "
                f"{begin + size}."
            )
        shape = tuple(header.fields.get(ORIGINAL + entry.name, entry.sides))
        if any(type(side) is not int or side < 0 for side in shape) or math.prod(shape) != number:
            raise limits.Refused(f"{what} has the shape {list(entry.sides)}, but its field states {list(shape)}.")
        meaning = meanings[entry.name]
        if meaning.heads and (not shape or shape[0] % (2 * meaning.heads)):
            raise limits.Refused(f"{what} has the sides {list(shape)}, which {meaning.heads} heads cannot share.")
        if meaning.name:
            stored = Stored(path, entry.name, kind, shape, entry.sides, begin, size, meaning.heads, meaning.added)
            tensors[meaning.name] = stored
    return tensors
