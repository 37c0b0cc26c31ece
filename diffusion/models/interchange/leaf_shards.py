"""One leaf of our parameters, read from a file into the memory of its devices, shard by shard.

A process reads what its own devices hold, and of the file only these numbers: the tensors are mapped, and a row of a
table says where a tensor lies in the leaf. Beside the leaf itself memory holds one tensor.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from diffusion.models.interchange import rows, tensor_files
from diffusion.models.interchange.rows import Mismatch, Row
from diffusion.models.interchange.tensor_files import Tensors
from diffusion.models.quantised import Quantised

ALIGNMENT = 64  # bytes


def placed(
    table: Sequence[Row], tensors: Tensors, shape: tuple[int, ...], dtype: Any, sharding: Sharding | None
) -> jax.Array:
    """The leaf, on its devices.

    Args:
        table: the rows of the leaf.
        tensors: the tensors of the file.
        shape: the shape of the leaf.
        dtype: the type of the leaf.
        sharding: the placement of the leaf; None for JAX's default device.

    Raises:
        Mismatch: for tensors with different numbers in one row.
        limits.Refused: for a number that is not finite, among those that this process reads.
    """
    if sharding is None:
        shard = _shard(table, tensors, shape, dtype, tuple((0, side) for side in shape))
        return jax.block_until_ready(jax.device_put(shard))
    devices: dict[rows.Block, list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        block = tuple(axis.indices(side)[:2] for axis, side in zip(index or (), shape))
        devices.setdefault(block, []).append(SingleDeviceSharding(device, memory_kind=sharding.memory_kind))
    shards = []
    for block, holders in devices.items():
        shard = _shard(table, tensors, shape, dtype, block)
        # Waits for the copies, so that the host never holds two shards beside the devices'.
        shards += jax.block_until_ready([jax.device_put(shard, holder) for holder in holders])
    return jax.make_array_from_single_device_arrays(shape, sharding, shards, dtype=dtype)


def _shard(table: Sequence[Row], tensors: Tensors, shape: tuple[int, ...], dtype: Any, block: rows.Block) -> np.ndarray:
    """A block of the leaf."""
    shard = _aligned(tuple(stop - begin for begin, stop in block), np.dtype(dtype))
    for row in table:
        common = rows.common(row.at, block)
        if common is None:
            continue
        in_shard, in_part = common
        part_shape = rows.part_shape(shape, row.at)

        def part(name: str, row: Row = row, part_shape: tuple = part_shape, in_part: tuple = in_part) -> np.ndarray:
            theirs = tensors.unchecked(name)
            theirs = theirs if row.rows is None else theirs[slice(*row.rows)]
            return row.layout.to_ours(theirs, part_shape)[in_part]

        theirs = part(row.theirs)
        tensors.refuse_unless_finite(row.theirs, theirs)
        for copy in row.copies:
            pairs = zip(tensor_files.slabs(part(copy)), tensor_files.slabs(theirs))
            if not all(np.array_equal(one, other) for one, other in pairs):
                raise Mismatch(
                    f"{tensors.path}: {copy} and {row.theirs} differ, but the network has one layer for both here."
                )
        rows.fill(shard[*in_shard, ...], theirs)
    return shard


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array, not filled, that begins at a multiple of 64 bytes: on a CPU JAX takes such an array without a copy."""
    size = math.prod(shape) * dtype.itemsize
    content = np.empty(size + ALIGNMENT, np.uint8)
    begin = -content.ctypes.data % ALIGNMENT
    return content[begin : begin + size].view(dtype).reshape(shape)


def placed_quantised(kernel: Quantised, sharding: Sharding | None) -> Quantised:
    """A quantised kernel, sharded as the kernel; each device has all of its scales, which are small."""
    everywhere = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding
    placed = Quantised(jax.device_put(kernel.values, sharding), jax.device_put(kernel.scale, everywhere))
    return jax.block_until_ready(placed)
