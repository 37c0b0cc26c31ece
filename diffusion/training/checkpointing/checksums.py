"""Checksums of arrays that do not depend on how the arrays are split over devices and processes.

Orbax restores a file with a flipped bit without an error, so a checkpoint has checksums of its own. They are sums of
hashes of (position, value): every process adds up those of its own shards, and no array is ever gathered.
"""

__all__ = ["checksum", "checksums", "mix"]

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from diffusion.training.sharding import leaf_name

CHUNK = 2**18  # words hashed at a time: they stay in the processor's cache


def mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of MurmurHash3 (Appleby, 2011): a bijection of uint32 in which every bit affects every other."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _words(values: np.ndarray) -> np.ndarray:
    """The bits of an array as uint32: one word an element, two for 64-bit types."""
    values = np.ascontiguousarray(np.atleast_1d(values))
    size = values.dtype.itemsize
    return values.view(np.uint32) if size >= 4 else values.view({1: np.uint8, 2: np.uint16}[size]).astype(np.uint32)


def checksum(values: np.ndarray, start: tuple[int, ...] = (), shape: tuple[int, ...] | None = None) -> int:
    """Returns the checksum of an array, or of a part of it; those of the parts add up to that of the whole modulo 2^32.

        sum_i h(h(i + c) ^ bits_i)  mod 2^32

    with i the row-major position in the whole array, h the bijection `mix` and c a constant. A change of any bits of a
    single element always changes the sum.

    Args:
        values: the part, of a type of 1, 2, 4 or 8 bytes.
        start: index of its first element in the whole array; the origin by default.
        shape: of the whole array; that of `values` by default.

    Returns:
        An integer in [0, 2^32).
    """
    shape = values.shape if shape is None else shape
    words = _words(values)
    wide = words.size // max(values.size, 1)  # words an element
    shape = (*shape[:-1], shape[-1] * wide) if shape else (wide,)
    start = (*start[:-1], start[-1] * wide) if start else (0,) * len(shape)
    strides = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
    along = [
        np.arange(first, first + length, dtype=np.uint64) * np.uint64(stride)
        for first, length, stride in zip(start, words.shape, strides)
    ]
    inner = np.zeros(words.shape[1:], np.uint64)
    for axis, positions in enumerate(along[1:]):
        inner = inner + positions.reshape(-1, *[1] * (inner.ndim - axis - 1))
    total = 0
    rows = max(1, CHUNK // max(inner.size, 1))
    for first in range(0, len(words), rows):
        block = words[first : first + rows]
        position = along[0][first : first + rows].reshape(-1, *[1] * inner.ndim) + inner
        position = position.astype(np.uint32) + np.uint32(0x9E3779B9)  # both modulo 2^32
        total += int(mix(mix(position) ^ block).sum(dtype=np.uint64))
    return total % 2**32


def _own_part(leaf: Any) -> int:
    """This process's part of a leaf's checksum; of several copies only one counts."""
    if not isinstance(leaf, jax.Array):
        return checksum(np.asarray(leaf)) if jax.process_index() == 0 else 0
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    total = 0
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            start = tuple(part.start or 0 for part in shard.index)
            total += checksum(np.asarray(shard.data), start, leaf.shape)
    return total % 2**32


def checksums(tree: Any) -> dict[str, str]:
    """Returns the checksum of every leaf by its path, as 8 hexadecimal digits. Waits for the arrays.

    Args:
        tree: pytree of arrays, sharded in any way; in a run of several processes each must call this. An array on the
            devices of one process alone is that process's own, and so is its checksum.

    Returns:
        {"params/blocks/kernel": "0123abcd", ...}.
    """
    named = jax.tree_util.tree_leaves_with_path(tree)
    parts = np.array([_own_part(leaf) for _, leaf in named], np.uint32)
    if jax.process_count() > 1:
        own = np.array([isinstance(leaf, jax.Array) and leaf.is_fully_addressable for _, leaf in named])
        total = np.asarray(multihost_utils.process_allgather(parts)).sum(axis=0, dtype=np.uint32)
        parts = np.where(own, parts, total)
    return {leaf_name(path): f"{int(part):08x}" for (path, _), part in zip(named, parts)}
