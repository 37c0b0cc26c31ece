"""Checksums of arrays that do not depend on how the arrays are split over devices and processes.

Orbax restores a file with a flipped bit without an error, so a checkpoint has checksums of its own. They are sums of
hashes of (position, value): every process adds up the sums of its own shards, and no array is ever gathered.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from diffusion.io.leaf_names import leaves_of
from diffusion.training.runtime import agreement

CHUNK = 2**16  # words hashed at a time: they stay in the processor's cache
PART = 2**22  # words of an array that a thread hashes before it takes the next


def mix(x: np.ndarray, free: np.ndarray) -> None:
    """The finalizer of MurmurHash3 (Appleby, 2011): a bijection of uint32 in which every bit affects every other.

    Args:
        x: uint32, changed in place, for new arrays would take half of the time.
        free: uint32 of the same shape, to write into.
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        np.right_shift(x, np.uint32(shift), out=free)
        np.bitwise_xor(x, free, out=x)
        np.multiply(x, np.uint32(factor), out=x)
    np.right_shift(x, np.uint32(16), out=free)
    np.bitwise_xor(x, free, out=x)


def _words(values: np.ndarray) -> np.ndarray:
    """The bits of an array as uint32: one word an element, two for 64-bit types."""
    values = np.ascontiguousarray(np.atleast_1d(values))
    size = values.dtype.itemsize
    return values.view(np.uint32) if size >= 4 else values.view({1: np.uint8, 2: np.uint16}[size]).astype(np.uint32)


def checksum(values: np.ndarray, start: tuple[int, ...] = (), shape: tuple[int, ...] | None = None) -> int:
    """Returns the checksum of an array, or of a part; the parts' checksums add up to the array's modulo 2^32.

        sum_i h(h(i + c) ^ bits_i)  mod 2^32

    with i the row-major position in the whole array, h the bijection `mix` and c a constant. A change of any bits of a
    single element always changes the sum.

    Args:
        values: the part, of a type of 1, 2, 4 or 8 bytes.
        start: the index of its first element in the whole array; the origin by default.
        shape: the shape of the whole array; the shape of `values` by default.

    Returns:
        An integer in [0, 2^32).
    """
    shape = values.shape if shape is None else shape
    words = _words(values)
    wide = words.size // max(values.size, 1)  # words an element
    shape = (*shape[:-1], shape[-1] * wide) if shape else (wide,)
    start = (*start[:-1], start[-1] * wide) if start else (0,) * len(shape)
    strides = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
    if words.shape[1:] == shape[1:]:  # whole rows, one after the other
        start, strides = (start[0] * strides[0],), [1]
        words = words.reshape(-1)
    # Positions are modulo 2^32.
    inner = np.zeros(words.shape[1:], np.uint32)
    for axis in range(1, words.ndim):
        along = np.arange(start[axis], start[axis] + words.shape[axis], dtype=np.uint64) * np.uint64(strides[axis])
        inner = inner + along.astype(np.uint32).reshape(-1, *[1] * (words.ndim - axis - 1))
    rows = max(1, min(len(words), CHUNK // max(inner.size, 1)))
    outer = np.arange(rows, dtype=np.uint64) * np.uint64(strides[0])
    outer = outer.astype(np.uint32).reshape(-1, *[1] * inner.ndim)
    total = 0
    for first in range(0, len(words), rows):
        block = words[first : first + rows]
        before = ((start[0] + first) * strides[0] + 0x9E3779B9) % 2**32
        hashed = outer[: len(block)] + (inner + np.uint32(before))
        free = np.empty_like(hashed)
        mix(hashed, free)
        np.bitwise_xor(hashed, block, out=hashed)
        mix(hashed, free)
        total += int(hashed.sum(dtype=np.uint64))
    return total % 2**32


_Part = tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]  # the arguments of `checksum`


def _own_parts(leaf: Any) -> Iterator[_Part]:
    """This process's parts of a leaf; of several copies only one counts."""
    if not isinstance(leaf, jax.Array):
        if jax.process_index() == 0:
            yield np.asarray(leaf), (), np.shape(leaf)
        return
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            start = tuple(part.start or 0 for part in shard.index)
            values = np.asarray(shard.data)
            if values.size <= PART:
                yield values, start, leaf.shape
                continue
            rows = max(1, PART * len(values) // values.size)
            for first in range(0, len(values), rows):
                yield values[first : first + rows], (start[0] + first, *start[1:]), leaf.shape


def _copy(part: _Part) -> _Part:
    """A copy of the part in separate memory, which no step changes.

    On a CPU NumPy's array shares the device's memory; of another device's array it is a copy already.
    """
    values, start, shape = part
    return values.copy() if jax.default_backend() == "cpu" else values, start, shape


def checksums(tree: Any) -> dict[str, str]:
    """Returns the checksum of every leaf by its path, as 8 hexadecimal digits. Waits for the arrays.

    Args:
        tree: pytree of arrays, sharded in any way; in a run of several processes each must call this. An array that
            lies only on the devices of one process belongs to that process, and so does its checksum.

    Returns:
        {"params/blocks/kernel": "0123abcd", ...}.
    """
    return _prepared(tree, lambda part: part, "checksums")()


def later(tree: Any) -> Callable[[], dict[str, str]]:
    """Returns a function that returns `checksums(tree)`; after this the arrays may be donated.

    It holds this process's parts in the host's memory until it is called, which every process must do, in any thread.
    """
    return _prepared(tree, _copy, "later checksums")


def _prepared(tree: Any, take: Callable[[_Part], _Part], subject: str) -> Callable[[], dict[str, str]]:
    """A function that returns the checksums of a tree, from the parts that `take` has made of its own."""
    leaves = leaves_of(tree)
    is_local = [isinstance(leaf, jax.Array) and leaf.is_fully_addressable for leaf in leaves.values()]
    for leaf in leaves.values():
        if isinstance(leaf, jax.Array) and jax.default_backend() != "cpu":  # on a CPU the copy would prevent donation
            leaf.copy_to_host_async()
    number, parts = [], []
    for i, leaf in enumerate(leaves.values()):
        leaf_parts = list(_own_parts(leaf))
        number += [i] * len(leaf_parts)
        parts += leaf_parts
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(take, parts))

    names = list(leaves)  # `sums` keeps no array

    def sums() -> dict[str, str]:
        try:
            mine = _summed(len(names), number, parts)
        except BaseException:
            agreement.gather(subject)  # the others wait for this process's part
            raise
        finally:
            parts.clear()
        total = _over_processes(mine, is_local, subject)
        return {name: f"{int(value):08x}" for name, value in zip(names, total)}

    return sums


def _summed(leaves: int, number: list[int], parts: list[_Part]) -> np.ndarray:
    """This process's part of the checksum of each leaf, uint32 [N], by a thread for each processor."""
    sums = np.zeros(leaves, np.uint64)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy leaves Python's lock while it hashes
        np.add.at(sums, number, np.array(list(pool.map(lambda part: checksum(*part), parts)), np.uint64))
    return (sums % 2**32).astype(np.uint32)


def _over_processes(mine: np.ndarray, local: list[bool], subject: str) -> np.ndarray:
    """The checksums, summed over all processes, uint32 [N]; a leaf that is `local` to a process keeps its own."""
    if jax.process_count() == 1:
        return mine
    texts = agreement.gather(subject, mine.tobytes().hex())
    if missing := [str(index) for index, text in enumerate(texts) if len(text) != 8 * len(mine)]:
        raise RuntimeError(
            f"process {', '.join(missing)} of this run has no checksums; that process's output has the reason"
        )
    total = sum(np.frombuffer(bytes.fromhex(text), np.uint32) for text in texts)  # modulo 2^32
    return np.where(local, mine, total)
