"""One train step on many devices, by two of JAX's engines: `jit` over a mesh, and `pmap`.

Both take `make`, a function that returns the pure step `(state, batch, seed) -> (state, metrics)`; its arguments are
those of `make_train_step` that depend on the engine. Both return a step on global arrays: the state as in `target`, the
batch from `sharding.to_devices`. Both donate the state, and compute the same.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusion.models.layers import layout
from diffusion.models.layers.layout import MeshError
from diffusion.training import sharding


def jit(make: Callable[..., Callable], target: Any, mesh: Mesh) -> Callable:
    """Returns the step under `jit`: every axis of the mesh, any number of processes.

    Args:
        make: a function (shards) -> step.
        target: a TrainState of jax.ShapeDtypeStruct with shardings, see `sharding.abstract`.
        mesh: the mesh of these shardings.
    """
    step = make(shards=sharding.batch_shards(mesh))

    def laid_out(state, batch, seed):
        with layout.over(mesh):
            return step(state, batch, seed)

    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        laid_out,
        donate_argnums=0,
        in_shardings=(state_shardings, sharding.batch_sharding(mesh), everywhere),
        out_shardings=(state_shardings, everywhere),
    )


def pmap(make: Callable[..., Callable], target: Any, mesh: Mesh) -> Callable:
    """Returns the step under `pmap`: every device holds all of the state, and computes its own rows of the batch.

    It is for those who think of their program as one for each device; `jit` does the same and more.

    Args:
        make: a function (axis) -> step.
        target: the target of `jit`, every leaf whole on every device.
        mesh: a mesh with all devices on the axis data.

    Raises:
        MeshError: if another axis of the mesh has more than one device.
    """
    if mesh.size != mesh.shape["data"]:
        raise MeshError(
            f'mesh.kind = "pmap" can only split the batch; for the mesh {dict(mesh.shape)} use mesh.kind = "jit".'
        )
    devices = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    here = NamedSharding(Mesh(np.array(devices), "data"), PartitionSpec("data"))
    by_device = jax.jit(
        lambda batch: jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), batch), out_shardings=here
    )
    mapped = jax.pmap(
        make(axis="data"),
        "data",
        in_axes=(None, 0, None),
        out_axes=None,
        donate_argnums=0,
        devices=list(mesh.devices.flat),
    )

    def local_rows(x):
        """The rows [b, ...] of a global array [B, ...] that lie on this process's devices; copies nothing."""
        rows = [shard.data for shard in x.addressable_shards]
        shape = (sum(len(part) for part in rows), *x.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, here, rows)

    def global_array(leaf, x):
        """A leaf that every process holds completely, as one global array; copies nothing."""
        return jax.make_array_from_single_device_arrays(x.shape, leaf.sharding, [s.data for s in x.addressable_shards])

    def step(state, batch, seed):
        state, metrics = mapped(state, by_device(jax.tree.map(local_rows, batch)), seed)
        return jax.tree.map(global_array, target, state), metrics

    return step


KINDS = {"jit": jit, "pmap": pmap}
