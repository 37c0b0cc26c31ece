"""The layout of arrays on devices: the mesh, rules from names to axes, and the transfer of a batch.

| axis     | splits                                   | what it costs in a step                                    |
|----------|------------------------------------------|------------------------------------------------------------|
| data     | the batch                                | an all-reduce of the gradients                             |
| fsdp     | the batch, and the state                 | all-gathers of parameters, a reduce-scatter of gradients   |
| sequence | the tokens of an example (models.layout) | two all-to-alls per attention layer                        |
| tensor   | heads, hidden features, their parameters | two all-reduces of the tokens per block                    |

With fsdp = 1 every device holds the complete state (parameters, optimizer, moving average). Otherwise it holds a part
(Rajbhandari et al. 2020, "ZeRO": stage 3, or stage 1 if the parameters are not split).

A rule is a pair (pattern, axes). The first rule whose pattern is found in a leaf's path, such as
"params/blocks/mlp/hidden/kernel", names the mesh axes over which the leaf's *last* dimensions are split; () splits
none. Then fsdp splits the largest dimension that is not yet split and that fsdp divides, if the leaf has at least
`SMALLEST_SPLIT` elements.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffusion.io.leaf_names import leaf_name
from diffusion.models.layers import layout
from diffusion.models.layers.layout import MeshError

AXES = ("data", "fsdp", "sequence", "tensor")  # later axes communicate more, so their devices lie closer together
BATCH_AXES = layout.RULES["batch"]
RULES = (
    (r"attention/(qkv|query|key|value)/(kernel|bias)$", ("tensor", None)),  # heads
    (r"attention/out/kernel$", ("tensor", None, None)),
    (r"mlp/hidden/(kernel|bias)$", ("tensor",)),
    (r"mlp/out/kernel$", ("tensor", None)),
    (r"modulation/dense/(kernel|bias)$", ("tensor",)),  # a third of a DiT's parameters
    (r".*", ()),
)
WHOLE = {"all": "(?!)", "optimizer": "^params/"}  # by what fsdp splits: a pattern of the paths that it does not split
SMALLEST_SPLIT = 1024  # the least number of elements of a leaf that fsdp splits; less does not pay
LIMITS = {  # JAX's limits on a run of several processes: (the variable that sets the limit, the default in seconds)
    "heartbeat_timeout_seconds": ("DIFFUSION_HEARTBEAT_SECONDS", 100),  # silence after which a process counts as dead
    "shutdown_timeout_seconds": ("DIFFUSION_SHUTDOWN_SECONDS", 300),  # time that an ending process waits for the others
}

FORMS = (  # (pattern, valid values in words) of the coordinator's address, the number of processes and the index
    (r"\S+:[0-9]{1,5}", "HOST:PORT of process 0"),
    ("0*[1-9][0-9]{0,6}", "the number of processes, a whole number, 1 or more"),
    ("[0-9]{1,7}", "the number of this process, a whole number, 0 or more"),
)


def limits() -> dict[str, Any]:
    """Returns JAX's limits on a run of several processes, from the environment.

    A shorter heartbeat ends a run sooner when a machine hangs; a longer one tolerates longer pauses of a machine (live
    migration, suspension) or of its network. All processes need the same limits.

    Returns:
        The limits in seconds, by the argument names of `jax.distributed.initialize`.

    Raises:
        ValueError: if a variable of `LIMITS` is not a whole number of seconds from 1 to 9999999.
    """
    seconds_by_name = {}
    for name, (variable, seconds) in LIMITS.items():
        text = os.environ.get(variable) or str(seconds)
        if not re.fullmatch("0*[1-9][0-9]{0,6}", text):
            raise ValueError(f"{variable} = {text!r} must be an integer number of seconds, 1 to 9999999.")
        seconds_by_name[name] = int(text)
    return seconds_by_name


def initialize_distributed() -> bool:
    """Connects this process to the other processes of its run, if the environment names any.

    The function reads DIFFUSION_COORDINATOR ("host:port"), DIFFUSION_PROCESS_COUNT and DIFFUSION_PROCESS_INDEX, which
    launchers set. If only the coordinator is set, to "auto", JAX finds all three itself, as it can on a TPU pod. The
    function also sets the limits in `LIMITS`. Call it before the first use of a device.

    Returns:
        Whether the run has several processes.

    Raises:
        ValueError: if only some of the variables are set, one has another form, the index is out of range, or a limit
            is not valid (see `limits`).
    """
    names = ("DIFFUSION_COORDINATOR", "DIFFUSION_PROCESS_COUNT", "DIFFUSION_PROCESS_INDEX")
    values = [os.environ.get(name, "") for name in names]
    if not any(values):
        return False
    if values == ["auto", "", ""]:
        jax.distributed.initialize(**limits())
        return jax.process_count() > 1
    if not all(values):
        missing = [name for name, value in zip(names, values) if not value]
        raise ValueError(f"A run of several processes needs {', '.join(names)}; not set: {', '.join(missing)}.")
    for name, value, (pattern, valid) in zip(names, values, FORMS, strict=True):
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(f"{name} = {value!r} must be {valid}.")
    count = int(values[1])
    index = int(values[2])
    if not 0 <= index < count:
        raise ValueError(f"DIFFUSION_PROCESS_INDEX = {index}: must be in [0, {count}).")
    if count == 1:
        return False
    jax.distributed.initialize(values[0], num_processes=count, process_id=index, **limits())
    return True


def make_mesh(axes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh of the named axes over all devices.

    Args:
        axes: size of each axis by name, in the order of `AXES`; one size may be -1, for all remaining devices.
        devices: the devices; by default all of `jax.devices()`.

    Raises:
        MeshError: if an axis is unknown, the product of the sizes is not the number of devices, or JAX finds no layout
            for the sizes on the torus of a TPU (an axis must be a product of sides of the torus).
    """
    devices = jax.devices() if devices is None else list(devices)
    unknown = [name for name in axes if name not in AXES]
    if unknown:
        raise MeshError(f"mesh axis {unknown[0]!r} is unknown. Valid: {', '.join(AXES)}.")
    sizes = {name: int(axes.get(name, 1)) for name in AXES}
    if any(size < 1 and size != -1 for size in sizes.values()) or list(sizes.values()).count(-1) > 1:
        raise MeshError(f"mesh {sizes}: sizes must be at least 1, and at most one may be -1 (the rest of the devices).")
    known = math.prod(size for size in sizes.values() if size != -1)
    sizes = {name: len(devices) // known if size == -1 else size for name, size in sizes.items()}
    if math.prod(sizes.values()) != len(devices):
        raise MeshError(
            f"mesh {dict(axes)} does not fit {len(devices)} devices: the sizes must multiply to {len(devices)}; "
            "-1 stands for the rest of the devices."
        )
    kinds = (AxisType.Auto,) * len(sizes)
    try:
        return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=devices)
    except NotImplementedError as error:
        raise MeshError(f"mesh {sizes} cannot be laid out on the torus of these devices: {error}") from error


def on_local_devices(params: Any) -> tuple[Any, Mesh | None]:
    """(the parameters, copied to each device of this process; the mesh of these devices, or None for one device)."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return params, None
    mesh = make_mesh({"data": -1}, devices)
    return jax.device_put(params, NamedSharding(mesh, PartitionSpec())), mesh


def shardings(shapes: Any, mesh: Mesh, rules: Sequence[tuple[str, tuple]] = RULES, whole: str = WHOLE["all"]) -> Any:
    """Returns the sharding of every leaf, by the first rule whose pattern is found in the leaf's path.

    Args:
        shapes: a pytree of leaves with a shape, such as the result of `jax.eval_shape`.
        mesh: the mesh that the rules' axes belong to.
        rules: the rules, as pairs (pattern, axes).
        whole: a regular expression for the paths that fsdp does not split; see `WHOLE`.

    Returns:
        A pytree of NamedSharding.

    Raises:
        MeshError: if no rule matches a leaf, or the size of an axis does not divide a leaf's dimension.
    """

    def leaf(path, shape):
        name = leaf_name(path)
        axes = next((axes for pattern, axes in rules if re.search(pattern, name)), None)
        if axes is None:
            raise MeshError(f"no sharding rule matches {name!r}. End the rules with ('.*', ()).")
        spec: list[str | None] = [None] * (len(shape.shape) - len(axes))
        spec += [axis if axis in mesh.shape else None for axis in axes]
        for size, axis in zip(shape.shape, spec):
            if axis and size % mesh.shape[axis]:
                raise MeshError(
                    f"{axis} = {mesh.shape[axis]} does not divide the {size} of {name} {shape.shape}: "
                    f"choose a divisor of {size}."
                )
        if not re.search(whole, name):
            _split_largest(spec, shape.shape, mesh)
        return NamedSharding(mesh, PartitionSpec(*spec) if any(spec) else PartitionSpec())

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def _split_largest(spec: list[str | None], shape: tuple[int, ...], mesh: Mesh) -> None:
    """Puts fsdp in `spec` at the largest dimension that is not yet split and that fsdp divides, if there is one."""
    parts = mesh.shape.get("fsdp", 1)
    sizes = [size if axis is None and size % parts == 0 else 0 for size, axis in zip(shape, spec)]
    if parts > 1 and math.prod(shape) >= SMALLEST_SPLIT and any(sizes):
        spec[sizes.index(max(sizes))] = "fsdp"


def abstract(
    init: Callable[..., Any], mesh: Mesh, rules: Sequence[tuple[str, tuple]], *args: Any, whole: str = WHOLE["all"]
) -> Any:
    """Returns `init(*args)` as jax.ShapeDtypeStruct with shardings, without computing it.

    Args:
        init: a function that returns a tree of arrays.
        mesh: the mesh of devices.
        rules: the rules, as pairs (pattern, axes), see `shardings`.
        *args: the arguments of `init`.
        whole: a regular expression for the paths that fsdp does not split; see `WHOLE`.
    """
    shapes = jax.eval_shape(init, *args)
    struct = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
    return jax.tree.map(struct, shapes, shardings(shapes, mesh, rules, whole))


def create(init: Callable[..., Any], target: Any, *args: Any) -> Any:
    """Returns `init(*args)`, computed in its final sharding, so that nothing is ever built unsharded.

    Args:
        init: a function of `args`.
        target: the shapes with shardings, from `abstract`.
        *args: the arguments of `init`.
    """
    return jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))(*args)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises a MeshError, before anything is compiled, if a global batch cannot be divided evenly over the devices."""
    shards = batch_shards(mesh)
    if batch_size < 1 or batch_size % (shards * accumulate):
        inside = f" and {accumulate} micro-batches" if accumulate > 1 else ""
        raise MeshError(
            f"train.batch_size = {batch_size} does not divide evenly over {shards} devices{inside}; make it a "
            f"multiple of {shards * accumulate}."
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first dimension over the `BATCH_AXES` that the mesh has."""
    return NamedSharding(mesh, PartitionSpec(tuple(name for name in BATCH_AXES if name in mesh.shape)))


def batch_shards(mesh: Mesh) -> int:
    """Returns the number of parts into which the mesh splits a batch."""
    return math.prod(mesh.shape[name] for name in BATCH_AXES if name in mesh.shape)


def positions(batch_size: int, mesh: Mesh, process: int | None = None) -> np.ndarray:
    """Returns the positions in the global batch of the rows that a process's devices hold, ascending, int64 [b].

    Args:
        batch_size: size of the global batch.
        mesh: the mesh.
        process: the index of the process; this one's by default.
    """
    process = jax.process_index() if process is None else process
    where = batch_sharding(mesh).devices_indices_map((batch_size,))
    held = [
        np.arange(*rows.indices(batch_size)) for device, (rows,) in where.items() if device.process_index == process
    ]
    return np.unique(np.concatenate(held))


def to_devices(batch: Any, mesh: Mesh, batch_size: int) -> Any:
    """Returns the global batch as arrays over the mesh; each process passes the rows of its devices.

    Args:
        batch: pytree of host arrays [b, ...]: the rows at this process's `positions`.
        mesh: the mesh.
        batch_size: size B of the global batch.

    Returns:
        A pytree of jax.Array [B, ...]. 64-bit integers become int32. "index", the global example index, is taken modulo
        2^31; in a run of more examples, strata remain correct if their number is a power of two.

    Raises:
        ValueError: if another leaf, such as a condition, holds an integer that does not fit into 32 bits.
    """
    where = batch_sharding(mesh)
    held = positions(batch_size, mesh)

    def leaf(path, x):
        x = np.asarray(x)
        if x.dtype in (np.int64, np.uint64):
            if path == (jax.tree_util.DictKey("index"),):
                x = x % 2**31
            elif x.size and not all(-(2**31) <= int(end) < 2**31 for end in (x.min(), x.max())):
                raise ValueError(
                    f"{leaf_name(path)} of a batch holds integers from {x.min()} to {x.max()}, and devices compute "
                    "with 32 bits. Valid: -2147483648 to 2147483647, or floating-point numbers"
                )
            x = x.astype(np.int32)
        rows = lambda index: x[np.searchsorted(held, np.arange(batch_size)[index[0]])]
        return jax.make_array_from_callback((batch_size, *x.shape[1:]), where, rows)

    return jax.tree_util.tree_map_with_path(leaf, batch)


def one_step_in_flight(mesh: Mesh) -> bool:
    """Returns whether each step must end before the next is dispatched.

    On simulated or multi-process CPU devices, two programs with collectives that run at the same time can take each
    other's threads and hang for good.
    """
    return mesh.size > 1 and next(iter(mesh.devices.flat)).platform == "cpu"
