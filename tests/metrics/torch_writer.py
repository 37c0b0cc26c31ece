"""Writes files as PyTorch does, opcode by opcode, without PyTorch: what readers of them are tested with."""

import io
import struct
import zipfile

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
KINDS = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def text(word):
    data = word.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(number):
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x10" + number.to_bytes(16, "little", signed=True)


def name(module, attribute):
    return b"c" + f"{module}\n{attribute}\n".encode()


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def whole(body):
    """A pickle of protocol 2."""
    return b"\x80\x02" + body + b"."


def tensor(key, dtype, shape, strides=None, offset=0, kind=None):
    """torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, False, OrderedDict())."""
    if strides is None:
        strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    kind = name("torch", kind or KINDS[np.dtype(dtype).name])
    storage = tuple_of(text("storage"), kind, text(key), text("cpu"), integer(int(np.prod(shape)))) + b"Q"
    numbers = [integer(offset), tuple_of(*map(integer, shape)), tuple_of(*map(integer, strides))]
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + tuple_of(storage, *numbers, b"\x89", name("collections", "OrderedDict") + b")R")
        + b"R"
    )


def dictionary(items):
    """collections.OrderedDict() with items set, and an attribute, as state dictionaries have."""
    body = name("collections", "OrderedDict") + b")R(" + b"".join(text(key) + value for key, value in items.items())
    return body + b"u}" + text("_metadata") + b"}sb"


def module(attributes):
    """An object of TorchScript: a class of its own, and a state."""
    return (
        name("__torch__.some.where", "Module")
        + b")\x81}("
        + b"".join(text(key) + value for key, value in attributes.items())
        + b"ub"
    )


def state(tensors):
    """(pickle of a state dictionary, storages) of arrays by name."""
    items = {key: tensor(str(i), array.dtype, array.shape) for i, (key, array) in enumerate(tensors.items())}
    return whole(dictionary(items)), [array.tobytes() for array in tensors.values()]


def script(tensors):
    """(pickle of nested modules, storages) of arrays by names with dots."""
    tree = {}
    for i, (key, array) in enumerate(tensors.items()):
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = tensor(str(i), array.dtype, array.shape)
    build = lambda node: module(
        {"training": b"\x89", **{k: build(v) if isinstance(v, dict) else v for k, v in node.items()}}
    )
    return whole(build(tree)), [array.tobytes() for array in tensors.values()]


def archive(path, pickled, storages, root="archive", compression=zipfile.ZIP_STORED, extra=None):
    """The zip archive of torch.save and torch.jit.save."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{root}/data.pkl", pickled)
        for i, data in enumerate(storages):
            file.writestr(f"{root}/data/{i}", data)
        file.writestr(f"{root}/version", "3\n")
        for entry, data in (extra or {}).items():
            file.writestr(entry, data)


def stream(path, pickled, storages, counts):
    """The stream of torch.save before 1.6."""
    out = io.BytesIO()
    out.write(b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b".")
    out.write(whole(integer(VERSION)))
    out.write(whole(b"}" + text("little_endian") + b"\x88s"))
    out.write(pickled)
    out.write(whole(b"](" + b"".join(text(str(i)) for i in range(len(storages))) + b"e"))
    for data, count in zip(storages, counts):
        out.write(struct.pack("<q", count) + data)
    path.write_bytes(out.getvalue())
