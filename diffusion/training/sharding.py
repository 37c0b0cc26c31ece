"""Where arrays live: the mesh, rules from names to axes, and the way of a batch onto the devices.

A rule is a pair (pattern, axes): the first pattern found in a leaf's path ("params/blocks/mlp/kernel") gives the
mesh axes over which the leaf's dimensions are split, as in ``jax.sharding.PartitionSpec``; () replicates it, and
LARGEST splits the largest dimension that the axis ``fsdp`` divides.

The batch is split over ``data`` and ``fsdp``, the state (parameters, optimizer, moving average) over ``fsdp`` alone:
with fsdp = 1 every device holds all of the state, with data = 1 each holds a part (Rajbhandari et al. 2020, "ZeRO",
stage 3).
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")  # the axes that a config may name; both split the batch
LARGEST = "largest"
RULES = ((".*", LARGEST),)  # the default
SMALLEST_SPLIT = 1024  # elements of a leaf that is worth a collective


def initialize_distributed() -> bool:
    """Joins this process to the others of its run, where the environment says that there are any.

    Reads DIFFUSION_COORDINATOR ("host:port"), DIFFUSION_PROCESS_COUNT and DIFFUSION_PROCESS_INDEX, which launchers
    set; a coordinator "auto", alone, leaves all three to JAX, which knows them on a TPU pod. Must come before the first
    use of a device.

    Returns:
      Whether the run has several processes.

    Raises:
      ValueError: if only some of the variables are set, or the index is out of range.
    """
    names = ("DIFFUSION_COORDINATOR", "DIFFUSION_PROCESS_COUNT", "DIFFUSION_PROCESS_INDEX")
    values = [os.environ.get(name) for name in names]
    if not any(values):
        return False
    if values == ["auto", None, None]:
        jax.distributed.initialize()
        return jax.process_count() > 1
    if not all(values):
        missing = [name for name, value in zip(names, values) if not value]
        raise ValueError(f"A run of several processes needs {', '.join(names)}; not set: {', '.join(missing)}.")
    count, index = int(values[1]), int(values[2])
    if not 0 <= index < count:
        raise ValueError(f"DIFFUSION_PROCESS_INDEX = {index}: must be in [0, {count}).")
    if count == 1:
        return False
    jax.distributed.initialize(values[0], num_processes=count, process_id=index)
    return True


def make_mesh(axes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of the named axes over all devices.

    Args:
      axes: size of each axis by name, in the order of ``AXES``; -1, once, stands for the rest of the devices.
      devices: all of ``jax.devices()`` by default.

    Returns:
      Mesh.

    Raises:
      ValueError: if an axis is unknown or the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    unknown = [name for name in axes if name not in AXES]
    if unknown:
        raise ValueError(f"mesh axis {unknown[0]!r} is unknown: valid are {', '.join(AXES)}.")
    sizes = {name: int(axes.get(name, 1)) for name in AXES}
    if any(size < 1 and size != -1 for size in sizes.values()) or list(sizes.values()).count(-1) > 1:
        raise ValueError(f"mesh {sizes}: sizes must be >= 1, with -1 (the rest of the devices) at most once.")
    known = math.prod(size for size in sizes.values() if size != -1)
    sizes = {name: len(devices) // known if size == -1 else size for name, size in sizes.items()}
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"mesh {dict(axes)} does not fit {len(devices)} devices: the sizes must multiply to {len(devices)}; "
            "-1 stands for the rest of the devices."
        )
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=devices)


def leaf_name(path: Sequence[Any]) -> str:
    """Returns a leaf's path in a pytree as text, for example "params/blocks/mlp/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def shardings(shapes: Any, mesh: Mesh, rules: Sequence[tuple[str, tuple]] = RULES) -> Any:
    """Returns the sharding of every leaf, by the first rule whose pattern is found in the leaf's path.

    Args:
      shapes: pytree of anything with a shape, for example from ``jax.eval_shape``.
      mesh: the mesh that the rules' axes belong to.
      rules: (pattern, axes) pairs.

    Returns:
      pytree of NamedSharding.

    Raises:
      ValueError: if no rule fits a leaf.
    """

    def leaf(path, shape):
        name = leaf_name(path)
        for pattern, axes in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, _largest(shape.shape, mesh) if axes == LARGEST else PartitionSpec(*axes))
        raise ValueError(f"no sharding rule fits {name!r}: end the rules with ('.*', ()) to replicate the rest.")

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def _largest(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    parts = mesh.shape.get("fsdp", 1)
    divisible = [size if size % parts == 0 else 0 for size in shape]
    if parts == 1 or math.prod(shape) < SMALLEST_SPLIT or not any(divisible):
        return PartitionSpec()
    axis = divisible.index(max(divisible))
    return PartitionSpec(*[None] * axis, "fsdp")


def abstract(init: Callable[..., Any], mesh: Mesh, rules: Sequence[tuple[str, tuple]], *args: Any) -> Any:
    """Returns what ``init(*args)`` will be, as jax.ShapeDtypeStruct with shardings; computes nothing."""
    shapes = jax.eval_shape(init, *args)
    struct = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
    return jax.tree.map(struct, shapes, shardings(shapes, mesh, rules))


def create(init: Callable[..., Any], target: Any, *args: Any) -> Any:
    """Returns ``init(*args)`` computed where it will live, so that nothing is ever built unsharded.

    Args:
      init: function of ``args``.
      target: from ``abstract``.
      *args: arguments of ``init``.
    """
    return jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))(*args)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises ValueError, before anything is compiled, if a global batch does not divide over devices and processes."""
    shards = batch_shards(mesh)
    if batch_size < 1 or batch_size % (shards * accumulate):
        inside = f" and {accumulate} micro-batches" if accumulate > 1 else ""
        raise ValueError(
            f"train.batch_size = {batch_size} does not divide over {shards} devices{inside}: "
            f"make it a multiple of {shards * accumulate}."
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first dimension over all axes that the mesh has of ``AXES``."""
    return NamedSharding(mesh, PartitionSpec(tuple(name for name in AXES if name in mesh.shape)))


def batch_shards(mesh: Mesh) -> int:
    """Returns the number of devices that a batch is split over."""
    return math.prod(mesh.shape[name] for name in AXES if name in mesh.shape)


def to_devices(batch: Any, mesh: Mesh) -> Any:
    """Returns the global batch as arrays over the mesh, each process giving its own rows.

    Args:
      batch: pytree of host arrays [b, ...]: this process's rows, in the order of processes.
      mesh: the mesh.

    Returns:
      pytree of jax.Array [B, ...]. 64-bit integers become int32, taken modulo 2^31 (the global example index of a
      run of more than two thousand million examples), which any power of two of strata survives.
    """
    where = batch_sharding(mesh)

    def leaf(x):
        x = np.asarray(x)
        if x.dtype in (np.int64, np.uint64):
            x = (x % 2**31).astype(np.int32)
        return jax.make_array_from_process_local_data(where, x)

    return jax.tree.map(leaf, batch)


def one_step_in_flight(mesh: Mesh) -> bool:
    """Returns whether each step must end before the next is dispatched.

    On simulated or multi-process CPU devices, two programs with collectives in flight at once can take each
    other's threads and hang for good.
    """
    return mesh.size > 1 and next(iter(mesh.devices.flat)).platform == "cpu"
