"""Tensors out of the files of PyTorch, read without PyTorch and without executing anything that is in them.

There are three layouts: the zip archive of torch.save, the zip archive of torch.jit.save (TorchScript), and the stream
of torch.save before 1.6. In each a pickle describes the tensors. A pickle is a program. The interpreter below runs it:
it knows lists, tuples, dictionaries, strings, numbers and tensors, calls nothing, imports nothing, and refuses every
other name.
"""

__all__ = ["Tensor", "is_torch", "read"]

import io
import pathlib
import pickle
import pickletools
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from diffusion.io import limits

LIMIT = 2**32  # bytes of a file
OPCODES = 10**6  # steps of one pickle; a state of 1,000 tensors takes 40,000
DEPTH = 64  # of containers in containers
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
        key: name of the storage.
        dtype: of its elements; that of bfloat16 is the uint16 that holds its bits.
        offset: of the first element, in elements.
        shape: sides.
        strides: in elements, one per side.
    """

    key: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Name(NamedTuple):
    """A name that a pickle imports; nothing is imported."""

    module: str
    name: str


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
    path = pathlib.Path(path)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise limits.Refused(f"{path} is not a file.")
    if found.st_size > LIMIT:
        raise limits.Refused(f"{path} has {limits.size(found.st_size)}; at most {limits.size(LIMIT)} are read.")
    limits.fits(str(path), found.st_size)
    content = path.read_bytes()
    try:
        tree, storage = (_archive if content.startswith(b"PK") else _stream)(content)
        return {name: _array(name, tensor, storage(tensor.key)) for name, tensor in _tensors(tree)}
    except limits.Refused as refused:
        raise limits.Refused(f"{path} is refused: {refused}") from refused
    except (
        ValueError,
        LookupError,
        TypeError,
        OverflowError,
        struct.error,
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise limits.Refused(f"{path} is damaged, or no file of PyTorch: {limits.reason(error)}.") from error


# ==== Layouts: each gives what the pickle describes, and a function from the key of a storage to its bytes ====


def _archive(content: bytes) -> tuple[Any, Callable[[str], bytes]]:
    """The zip archive: ROOT/data.pkl, and one entry ROOT/data/KEY per storage, none of them compressed."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    limits.inside("it", archive.namelist())
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise limits.Refused("it is a zip archive without the data.pkl of PyTorch.")
    root = pickles[0].removesuffix("data.pkl")
    used = [entry for entry in archive.infolist() if entry.filename.startswith((pickles[0], f"{root}data/"))]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in used):
        raise limits.Refused("it holds compressed tensors, and PyTorch writes none. Unpack it and save it again.")
    if (declared := sum(entry.file_size for entry in used)) > len(content):
        raise limits.Refused(f"it declares {limits.size(declared)} of tensors in {limits.size(len(content))}.")
    opened: dict[str, bytes] = {}

    def storage(key: str) -> bytes:
        if key not in opened:
            opened[key] = archive.read(f"{root}data/{key}")
        return opened[key]

    return _run(io.BytesIO(archive.read(pickles[0]))), storage


def _stream(content: bytes) -> tuple[Any, Callable[[str], bytes]]:
    """The old stream: a magic number, a version, facts of the machine, the object, the keys, then their storages."""
    if not content.startswith(MAGIC):
        raise limits.Refused("it is not a file of PyTorch: neither a zip archive nor its older stream.")
    file = io.BytesIO(content)
    _, version, about, tree, keys = (_run(file) for _ in range(5))
    if version != 1001 or not _only(dict, about).get("little_endian", True) or not isinstance(keys, list):
        raise limits.Refused("it has a layout of PyTorch that is not known here. Save it again with a new one.")
    sizes = {tensor.key: tensor.dtype.itemsize for _, tensor in _tensors(tree)}
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
        raise limits.Refused(f"{name} declares the shape {list(tensor.shape)}; its storage has {held} elements.")
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
    seen = set()
    letters = 0
    pending = [("", tree, 0)]
    while pending:
        prefix, node, depth = pending.pop()
        if depth > DEPTH:
            raise limits.Refused(f"it holds containers in containers without end, more than {DEPTH} deep.")
        if isinstance(node, Tensor):
            yield prefix, node
        elif isinstance(node, dict):
            if id(node) in seen:  # in a circle, or so often that a small file has names without end
                raise limits.Refused(f"it holds one dictionary twice, again as {prefix[:100]!r}; it is without end.")
            seen.add(id(node))
            letters += sum(len(prefix) + 1 + (len(key) if isinstance(key, str) else 20) for key in node)
            if letters > NAMES:
                raise limits.Refused(f"its names have more than {NAMES} letters together.")
            pending += [(f"{prefix}.{key}" if prefix else str(key), value, depth + 1) for key, value in node.items()]


# ==== The interpreter of pickles ====


def _run(file: BinaryIO) -> Any:
    """What the next pickle of a stream describes. TorchScript's objects become dictionaries of their attributes."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    copied = 0

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        value = cast(Any, argument)
        if count > OPCODES:
            raise limits.Refused(f"its pickle takes more than {OPCODES} steps.")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case (
                "BININT"
                | "BININT1"
                | "BININT2"
                | "LONG1"
                | "BINFLOAT"
                | "BINUNICODE"
                | "SHORT_BINUNICODE"
                | "SHORT_BINSTRING"
                | "BINSTRING"
            ):
                stack.append(value)
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = int(opcode.name[-1])
                stack[-length:] = [tuple(stack[-length:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                item = stack.pop()
                _only(list, stack[-1]).append(item)
            case "APPENDS":
                items = since_mark()
                _only(list, stack[-1]).extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value = stack.pop()
                key = stack.pop()
                _set(stack[-1], [key, value])
            case "SETITEMS":
                items = since_mark()
                _set(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "GLOBAL":
                stack.append(_allowed(*value.split(" ", 1)))
            case "STACK_GLOBAL":
                name = stack.pop()
                module = stack.pop()
                stack.append(_allowed(_only(str, module), _only(str, name)))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "NEWOBJ":
                stack.pop()
                _only(_Name, stack.pop())
                stack.append({})
            case "REDUCE":
                arguments = _only(tuple, stack.pop())
                stack.append(_made(_only(_Name, stack.pop()), arguments))
            case "BUILD":
                state = _only(dict, stack.pop())
                copied += len(state)  # one dictionary may be the state of many objects
                if copied > OPCODES:
                    raise limits.Refused(f"its pickle copies more than {OPCODES} entries.")
                _only(dict, stack[-1]).update(state)
            case other:
                raise limits.Refused(f"its pickle has the step {other}, which no file of weights needs.")
    raise pickle.UnpicklingError("its pickle has no end")


def _only(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"its pickle has a {type(value).__name__} where a {kind.__name__.strip('_').lower()} belongs")
    return value


def _set(target: Any, items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, int):  # to hash a tuple of tuples can take forever
            raise TypeError(f"its pickle has a {type(key).__name__} as a key")
        _only(dict, target)[key] = value


def _allowed(module: str, name: str) -> _Name:
    """The name, if a file of weights may have it: tensors, storages, ordered dictionaries, classes of TorchScript."""
    if (
        module.split(".")[0] == "__torch__"
        or (module, name) == ("collections", "OrderedDict")
        or (module == "torch" and name in DTYPES)
        or (module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"))
        or (module == "torch.jit._pickle" and (name.startswith("build_") or name == "restore_type_tag"))
    ):
        return _Name(module, name)
    raise limits.Refused(f"it names {f'{module}.{name}'[:100]!r}, which no file of weights needs: it may be hostile.")


def _made(function: _Name, arguments: tuple[Any, ...]) -> Any:
    """The value that a call of a pickle stands for; nothing is called."""
    if function.name == "_rebuild_tensor_v2":
        storage, offset, shape, strides = arguments[:4]
        if not len(_only(tuple, shape)) == len(_only(tuple, strides)) <= 8:
            raise TypeError(f"it describes a tensor by {len(shape)} sides and {len(strides)} strides; valid: up to 8")
        if any(type(number) is not int or number < 0 for number in (offset, *shape, *strides)):
            raise TypeError("it describes a tensor by values that are not whole numbers")
        return Tensor(**_only(_Storage, storage)._asdict(), offset=offset, shape=shape, strides=strides)
    if function.name == "OrderedDict" and not arguments:
        return {}
    if function.module == "torch.jit._pickle" or function.name == "_rebuild_parameter":
        return arguments[0]
    raise TypeError(f"its pickle calls {function.name}")


def _storage(identity: Any) -> _Storage:
    """The storage of a persistent id, ("storage", type, key, place, elements, ...)."""
    word, kind, key = _only(tuple, identity)[:3]
    if word != "storage" or _only(_Name, kind).name not in DTYPES:
        raise TypeError("its pickle refers to what is no storage")
    return _Storage(_only(str, key), np.dtype(DTYPES[kind.name]))
