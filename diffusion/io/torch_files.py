"""Tensors out of the files of PyTorch, read without PyTorch and without executing anything that is in them.

There are three layouts: the zip archive of torch.save, the zip archive of torch.jit.save (TorchScript), and the stream
of torch.save before 1.6. In each a pickle describes the tensors, which `pickles` interprets: it calls nothing, imports
nothing, and refuses every name that no file of weights needs.
"""

import io
import pathlib
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from diffusion.io import limits, opener
from diffusion.io.pickles import Kind, Name, only, run

LIMIT = 2**32  # bytes of a file
DEPTH = 64  # deepest nesting of containers
DAMAGED = (ValueError, LookupError, TypeError, OverflowError, struct.error, zipfile.BadZipFile, EOFError,
           NotImplementedError, RuntimeError, MemoryError)  # fmt: skip  # for damaged content
NAMES = 2**24  # letters of all names together; 1,000 tensors have 60,000
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80"  # the first object of the old stream is a number of this form
DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "BFloat16Storage": "<u2",
}


class Tensor(NamedTuple):
    """A tensor as a file describes it: a view of a storage.

    Attributes:
        key: the name of the storage.
        dtype: the dtype of its elements; for bfloat16, the uint16 that holds the bits.
        offset: position of the first element in the storage, in elements.
        shape: the shape of the tensor.
        strides: the step along each axis, in elements.
    """

    key: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype


def is_torch(head: bytes) -> bool:
    """Whether a file that begins with these bytes (16 or more) is one of PyTorch's."""
    return head.startswith((b"PK\x03\x04", MAGIC))


def read(path: pathlib.Path | str) -> dict[str, np.ndarray]:
    """The tensors of a file, by their names in it, such as "layers.conv.weight".

    Args:
        path: a file of torch.save (of either layout) or of torch.jit.save.

    Returns:
        name -> array, a read-only view of the storage.

    Raises:
        OSError: if it cannot be read.
        limits.Refused: if it is damaged, of another layout, too large, or names what no file of weights needs.
    """
    content = opener.read(path, most=min(LIMIT, limits.memory()))
    try:
        tree, storage = (_archive if content.startswith(b"PK") else _stream)(content)
        return {name: _array(name, tensor, storage(tensor.key)) for name, tensor in _tensors(tree)}
    except limits.Refused as refused:
        raise limits.Refused(f"{path} is refused: {refused}") from refused
    except DAMAGED as error:
        raise limits.Refused(f"{path} is damaged, or is not a PyTorch file: {limits.reason(error)}.") from error


# ==== Layouts: each gives what the pickle describes, and a function from the key of a storage to its bytes ====


def _archive(content: bytes) -> tuple[Any, Callable[[str], bytes]]:
    """The zip archive: ROOT/data.pkl, and one entry ROOT/data/KEY per storage, none of them compressed."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    limits.inside("it", archive.namelist())
    descriptions = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(descriptions) != 1:
        raise limits.Refused("it is a zip archive, but without PyTorch's data.pkl.")
    root = descriptions[0].removesuffix("data.pkl")
    used = [entry for entry in archive.infolist() if entry.filename.startswith((descriptions[0], f"{root}data/"))]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in used):
        raise limits.Refused("it holds compressed tensors, which PyTorch never writes. Unpack it and save it again.")
    if (declared := sum(entry.file_size for entry in used)) > len(content):
        raise limits.Refused(
            f"it declares {limits.size(declared)} of tensors, but has only {limits.size(len(content))}."
        )
    opened: dict[str, bytes] = {}

    def storage(key: str) -> bytes:
        if key not in opened:
            opened[key] = archive.read(f"{root}data/{key}")
        return opened[key]

    return run(io.BytesIO(archive.read(descriptions[0])), WEIGHTS), storage


def _stream(content: bytes) -> tuple[Any, Callable[[str], bytes]]:
    """The old stream: a magic number, a version, facts of the machine, the object, the keys, then their storages."""
    if not content.startswith(MAGIC):
        raise limits.Refused("it is not a PyTorch file: neither a zip archive nor the older stream format.")
    file = io.BytesIO(content)
    sizes: dict[str, int] = {}  # of an element of each storage, also of those whose tensors stand in lists

    def noted(identity: Any) -> _Storage:
        storage = _storage(identity)
        sizes[storage.key] = storage.dtype.itemsize
        return storage

    _, version, facts, tree, keys = (run(file, WEIGHTS._replace(persistent=noted)) for _ in range(5))
    if version != 1001 or not only(dict, facts).get("little_endian", True) or not isinstance(keys, list):
        raise limits.Refused(
            "its layout is not one that this library knows. Save it again with a recent version of PyTorch."
        )
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        length = count * sizes.get(key, 1)
        if key not in sizes or count < 0 or length > len(content) - file.tell():
            raise limits.Refused(f"it declares a storage of {count} elements, which it does not hold.")
        storages[key] = file.read(length)
    return tree, storages.__getitem__


def _array(name: str, tensor: Tensor, storage: bytes) -> np.ndarray:
    """The view of the storage, once it is known to stay inside."""
    held = len(storage) // tensor.dtype.itemsize
    needed = limits.array_bytes(name, tensor.shape, 1)
    last = sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.strides))
    if needed > held or (needed and not 0 <= tensor.offset <= tensor.offset + last < held):
        raise limits.Refused(f"{name} declares the shape {list(tensor.shape)}, but its storage has {held} elements.")
    if needed == 0:
        return np.zeros(tensor.shape, tensor.dtype)
    return np.ndarray(
        tensor.shape,
        tensor.dtype,
        storage,
        tensor.offset * tensor.dtype.itemsize,
        [stride * tensor.dtype.itemsize for stride in tensor.strides],
    )


def _tensors(tree: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of each tensor in dictionaries of dictionaries; each step down adds ".key" to the name."""
    visited = set()
    letters = 0
    pending = [("", tree, 0)]
    while pending:
        prefix, node, depth = pending.pop()
        if depth > DEPTH:
            raise limits.Refused(f"its containers are nested more than {DEPTH} deep.")
        if isinstance(node, Tensor):
            yield prefix, node
        elif isinstance(node, dict):
            if id(node) in visited:  # cycles, and shared nodes that give a small file endless names, are refused
                raise limits.Refused(
                    f"it holds one dictionary twice, the second time as {prefix[:100]!r}, so its nesting may be "
                    "endless."
                )
            visited.add(id(node))
            letters += sum(len(prefix) + 1 + (len(key) if isinstance(key, str) else 20) for key in node)
            if letters > NAMES:
                raise limits.Refused(f"its names have more than {NAMES} characters in total.")
            pending += [(f"{prefix}.{key}" if prefix else str(key), value, depth + 1) for key, value in node.items()]


# ==== What their pickles name ====


def _allows(module: str, name: str) -> bool:
    """Whether a file of weights may have a name: tensors, storages, ordered dictionaries, classes of TorchScript."""
    return (
        module.split(".")[0] == "__torch__"
        or (module, name) == ("collections", "OrderedDict")
        or (module == "torch" and name in DTYPES)
        or (module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"))
        or (module == "torch.jit._pickle" and (name.startswith("build_") or name == "restore_type_tag"))
    )


def _made(function: Name, arguments: tuple[Any, ...]) -> Any:
    """The value that a call of a pickle stands for; nothing is called."""
    if function.name == "_rebuild_tensor_v2":
        storage, offset, shape, strides = arguments[:4]
        if not len(only(tuple, shape)) == len(only(tuple, strides)) <= 8:
            raise TypeError(
                f"it describes a tensor by {len(shape)} sides and {len(strides)} strides. Valid: up to 8 of each"
            )
        if any(type(number) is not int or number < 0 for number in (offset, *shape, *strides)):
            raise TypeError("it describes a tensor by values that are not integers")
        return Tensor(**only(_Storage, storage)._asdict(), offset=offset, shape=shape, strides=strides)
    if function.name == "OrderedDict" and not arguments:
        return {}
    if function.module == "torch.jit._pickle" or function.name == "_rebuild_parameter":
        return arguments[0]
    raise TypeError(f"its pickle calls {function.name}")


def _storage(identity: Any) -> _Storage:
    """The storage of a persistent id, ("storage", type, key, place, elements, ...)."""
    word, kind, key = only(tuple, identity)[:3]
    if word != "storage" or only(Name, kind).name not in DTYPES:
        raise TypeError("its pickle refers to something that is not a storage")
    return _Storage(only(str, key), np.dtype(DTYPES[kind.name]))


def _built(target: Any, state: Any) -> None:
    """TorchScript's objects are dictionaries of their attributes."""
    only(dict, target).update(only(dict, state))


WEIGHTS = Kind(_allows, _made, _built, _storage)
