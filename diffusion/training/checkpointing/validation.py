"""Checkpoint validation: the declared sizes and the files are checked before anything is allocated or opened."""

import math
import pathlib

import numpy as np

from diffusion.io import failures, limits
from diffusion.io.limits import Refused


def check_leaves(what: str, leaves: object) -> dict[str, int]:
    """Checks the description of the leaves in a checkpoint's `about`.

    Args:
        what: the file, for messages.
        leaves: the description, {"params/blocks/kernel": {"shape": [4, 128], "dtype": "float32", "checksum":
            "0123abcd"}, ...}.

    Returns:
        The declared bytes of each item, the first part of a leaf's name, e.g. {"params": 4096, "ema": 4096}.

    Raises:
        Refused: if a name leads out of the folder, or a shape or type is not valid.
    """
    if not isinstance(leaves, dict):
        raise Refused(f"{what} describes no leaves.")
    limits.inside(what, leaves)
    declared: dict[str, int] = {}
    for name, leaf in leaves.items():
        try:
            itemsize = np.dtype(leaf["dtype"]).itemsize
            shape = leaf["shape"]
        except (TypeError, KeyError) as error:
            raise Refused(f"{what} describes the leaf {name!r} without a shape or a known type.") from error
        item = name.split("/")[0]
        declared[item] = declared.get(item, 0) + limits.array_bytes(f"{what}, leaf {name!r},", shape, itemsize)
    return declared


def check_files(folder: pathlib.Path) -> None:
    """Checks the files of a checkpoint before any is opened.

    Args:
        folder: WORKDIR/checkpoints/<step>.

    Raises:
        Refused: if there is a link, a pipe or a device, or a description is larger than `limits.TEXT`.
        OSError: if a folder cannot be read.
    """
    for path in limits.plain_files(folder):
        if path.parent.name != "d" and path.stat().st_size > limits.TEXT:  # the folder d holds the values
            held = limits.size(path.stat().st_size)
            raise Refused(f"{path} has {held}. Valid: at most {limits.size(limits.TEXT)} for a description.")


def check_item(folder: pathlib.Path, declared: int) -> None:
    """Checks that the arrays in one item of a checkpoint are no larger than `about` declares.

    TensorStore allocates a complete chunk of an array at a time, and Orbax trusts the shapes in the files.

    Args:
        folder: the item's folder, e.g. WORKDIR/checkpoints/100/params.
        declared: the declared bytes of all leaves of the item.

    Raises:
        Refused: if the item does not have the form that this library writes, its arrays are larger than declared, or a
            chunk is larger than its array.
        OSError, ValueError: if this machine cannot read the files, see `failures.is_machine_failure`.
    """
    if not (folder / "manifest.ocdbt").is_file():
        raise Refused(f"{folder / 'manifest.ocdbt'} is missing; checkpoints without it are not from this library.")
    import tensorstore  # imported here: most commands list checkpoints before they open one

    try:
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}).result()
        keys = [key for key in store.list().result() if key.endswith(b"/.zarray")]
        described = [pending.result().value for pending in [store.read(key) for key in keys]]
    except ValueError as error:  # TensorStore raises it for files that are missing, truncated or altered
        if failures.is_machine_failure(error):
            raise
        raise Refused(f"The checkpoint {folder} cannot be read: {str(error).splitlines()[0]}") from error
    total = 0
    for key, text in zip(keys, described):
        what = f"{folder}, array {key.removesuffix(b'/.zarray').decode(errors='replace')!r},"
        try:
            array = limits.parse_json(text, what)
            shape = array["shape"]
            chunks = array["chunks"]
            itemsize = np.dtype(array["dtype"]).itemsize
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"{what} has no readable description: {error}.") from error
        total += limits.array_bytes(what, shape, itemsize)
        if limits.array_bytes(what, chunks, itemsize) > math.prod(max(side, 1) for side in shape) * itemsize:
            raise Refused(f"{what} declares chunks of {chunks}, larger than its shape {shape}.")
    if total > declared:
        raise Refused(f"{folder} holds arrays of {limits.size(total)}, but declares {limits.size(declared)}.")
