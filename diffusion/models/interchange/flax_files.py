"""Checkpoints of Flax: one msgpack file (`flax.training.checkpoints`, `flax.serialization`), or a folder of Orbax.

A leaf's name is its path with dots: "ema_params.net.blocks_0.attn.q_proj.kernel". Nothing in a file is executed:
msgpack knows numbers, texts, lists, tables and the bytes of arrays.
"""

import pathlib
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import numpy as np

from diffusion.io import limits, opener

LIMIT = 2**35  # bytes of a file
MARKS = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")  # files of a folder of Orbax


def is_flax(path: pathlib.Path) -> bool:
    """Whether a path looks like a checkpoint of Flax: a .msgpack or checkpoint_<step> file, or a folder of Orbax."""
    if path.is_dir():
        return any((path / mark).exists() for mark in MARKS)
    return path.is_file() and (path.suffix == ".msgpack" or (path.name.startswith("checkpoint_") and not path.suffix))


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by their names; other leaves, such as a step or a name, are left out.

    Args:
        path: the file or folder.

    Raises:
        limits.Refused: if it is damaged, of another layout, or larger than this machine's memory.
    """
    size = sum(file.stat().st_size for file in limits.plain_files(path)) if path.is_dir() else path.stat().st_size
    if size > LIMIT:
        raise limits.Refused(f"{path} has {limits.size(size)}; at most {limits.size(LIMIT)} are read.")
    limits.fits(str(path), size)
    try:
        tree = _orbax(path) if path.is_dir() else flax.serialization.msgpack_restore(opener.read(path, most=LIMIT))
    except limits.Refused:
        raise
    except (
        ValueError,  # includes all errors of msgpack
        TypeError,
        KeyError,
        AttributeError,
        OSError,
        RecursionError,
    ) as error:
        raise limits.Refused(f"{path} is damaged, or is not a Flax checkpoint: {limits.reason(error)}.") from error
    if not isinstance(tree, dict):
        raise limits.Refused(f"{path} is not a Flax checkpoint: it holds {limits.kind(tree)} instead of a table.")
    leaves = flax.traverse_util.flatten_dict(tree)
    if odd := [name for names in leaves for name in names if not isinstance(name, str)]:
        raise limits.Refused(f"{path} is not a Flax checkpoint: a name in it is {limits.short(odd[0])}. Valid: a text.")
    return {".".join(names): leaf for names, leaf in leaves.items() if isinstance(leaf, np.ndarray)}


def _orbax(path: pathlib.Path) -> Any:
    """The tree of a folder of Orbax, as arrays of numpy, whatever devices wrote it."""
    import orbax.checkpoint as ocp  # a second, only for folders of Orbax

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        metadata = checkpointer.metadata(path.absolute())
        tree = getattr(metadata, "item_metadata", metadata)
        tree = getattr(tree, "tree", tree)
        limits.fits(str(path), sum(_bytes(path, leaf) for leaf in jax.tree.leaves(tree)))
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(path.absolute(), args=ocp.args.PyTreeRestore(restore_args=arguments))


def _bytes(path: pathlib.Path, leaf: Any) -> int:
    """The bytes that an array takes when it is read, by what the folder states; 0 for a text."""
    if getattr(leaf, "shape", None) is None:
        return 0
    itemsize = np.dtype(leaf.dtype).itemsize
    total = limits.array_bytes(f"{path}, array {leaf.name!r},", leaf.shape, itemsize)
    chunk = getattr(leaf.storage, "chunk_shape", None) or ()  # TensorStore allocates a whole one at a time
    return max(total, limits.array_bytes(f"{path}, chunk of {leaf.name!r},", chunk, itemsize))
