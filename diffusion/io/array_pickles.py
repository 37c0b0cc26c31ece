"""Reads pickles of tables of NumPy's arrays without executing their content, and writes them."""

import io
import os
import pathlib
import pickle
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion.io import files, limits, opener
from diffusion.io.pickles import Kind, Name, only, run

LIMIT = 2**32  # most bytes of a file
DEPTH = 16  # deepest nesting of tables
MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
NUMBERS = "fiub"  # kinds of elements
DAMAGED = (ValueError, LookupError, TypeError, OverflowError, AttributeError, struct.error, EOFError, MemoryError,
           pickle.UnpicklingError)  # fmt: skip  # what the interpreter and NumPy raise for damaged content


class _Dtype:
    """A dtype; the pickle states its byte order after it."""

    def __init__(self, text: Any):
        if len(only(str, text)) > 8:
            raise TypeError("an array in it has a type that is not a number")
        self.value = np.dtype(text)
        if self.value.kind not in NUMBERS:
            raise TypeError(f"an array in it has the type {text[:20]!r}. Valid: numbers")


class _Array:
    """An array; the pickle states its content after it."""

    value: np.ndarray | None = None


def read(path: pathlib.Path) -> dict[str, Any]:
    """The table in a file, of tables, arrays of numbers, numbers and texts.

    Args:
        path: the file, which `pickle.dump` wrote by protocol 3 or later, with NumPy 1 or 2.

    Raises:
        OSError: if it cannot be read.
        limits.Refused: if it is damaged, too large, or holds something else.
    """
    with opener.open_file(path, most=LIMIT) as file:
        limits.fits(str(path), 2 * os.fstat(file.fileno()).st_size)
        content = file.read()
    try:
        return _table(run(io.BytesIO(content), ARRAYS), set())
    except limits.Refused as refused:
        raise limits.Refused(f"{path} is refused: {refused}") from refused
    except DAMAGED as error:
        raise limits.Refused(f"{path} is damaged, or is not a table of arrays: {limits.reason(error)}.") from error


def write(path: pathlib.Path, table: Mapping[str, Any]) -> None:
    """Writes a table of tables, arrays and numbers, whole or not at all, as any NumPy reads it by `pickle.load`.

    Raises:
        OSError: if it cannot be written.
    """
    content = io.BytesIO()
    _Pickler(content, protocol=4).dump(table)
    with files.atomic(path) as file:
        file.write(content.getvalue())


class _Pickler(pickle.Pickler):
    """Pickles arrays as calls of `numpy.ndarray`, since NumPy 1 lacks the function by which NumPy 2 pickles them."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            plain = np.ascontiguousarray(value)
            return np.ndarray, (plain.shape, plain.dtype.str, plain.tobytes())
        return NotImplemented


def _table(value: Any, seen: set[int], depth: int = 0) -> Any:
    """The value with NumPy's arrays in place of `_Array`; `seen` holds the ids of the tables visited so far."""
    if depth > DEPTH:
        raise TypeError(f"its tables are nested more than {DEPTH} deep")
    if isinstance(value, _Array) and depth:
        if value.value is None:
            raise TypeError("it holds an array without content")
        return value.value
    if isinstance(value, dict):
        if id(value) in seen:  # a small file could repeat it without end
            raise TypeError("it holds the same table twice")
        seen.add(id(value))
        return {only(str, key): _table(entry, seen, depth + 1) for key, entry in value.items()}
    if isinstance(value, (str, int, float)) and depth:
        return value
    raise TypeError(f"it holds a {type(value).__name__.strip('_').lower()} where only a table or an array is valid")


def _allows(module: str, name: str) -> bool:
    return (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")) or (
        module in MODULES and name in ("_reconstruct", "_frombuffer")
    )


def _called(function: Name, arguments: tuple[Any, ...]) -> Any:
    """What a call in the pickle returns."""
    if function.name == "dtype":
        return _Dtype(arguments[0])
    array = _Array()
    if function.name == "_reconstruct":  # the array's content follows as its state
        return array
    if function.name == "ndarray":  # written by `write`
        shape, dtype, content = arguments
        array.value = _array(shape, _Dtype(dtype), content, "C")
        return array
    content, dtype, shape, order, *axes = arguments  # _frombuffer, of protocol 5
    turned = order == "K" and len(axes) == 1  # as NumPy from 2.4 on writes arrays whose axes are in another order
    array.value = _array(shape, only(_Dtype, dtype), content, "C" if turned else only(str, order))
    if turned:
        if sorted(only(tuple, axes[0])) != list(range(array.value.ndim)):
            raise TypeError(f"it has an array of the shape {list(shape)} whose axes are in the order {axes[0]}")
        array.value = array.value.transpose(axes[0])
    return array


def _set_state(target: Any, state: Any) -> None:
    """Gives a dtype its byte order, or an array its content."""
    state = only(tuple, state)
    if isinstance(target, _Dtype):
        if state[1] not in ("<", ">", "|", "="):
            raise TypeError("it states a byte order other than <, >, | and =")
        target.value = target.value.newbyteorder(state[1])
        return
    _, shape, dtype, is_fortran, content = state
    only(_Array, target).value = _array(shape, only(_Dtype, dtype), content, "F" if is_fortran else "C")


def _array(shape: Any, dtype: _Dtype, content: Any, order: str) -> np.ndarray:
    """An array from its bytes; there must be as many as its shape and dtype need."""
    if not isinstance(content, (bytes, bytearray)) or order not in ("C", "F"):
        raise TypeError("it has an array whose content is not bytes")
    if limits.array_bytes("an array", only(tuple, shape), dtype.value.itemsize) != len(content):
        raise TypeError(f"it has an array of the shape {list(shape)} whose content has {len(content)} bytes")
    return np.frombuffer(content, dtype.value).reshape(shape, order=order)


def _persistent(identity: Any) -> Any:
    raise TypeError("it refers to data outside the file")


ARRAYS = Kind(_allows, _called, _set_state, _persistent)
