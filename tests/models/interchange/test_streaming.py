"""A checkpoint is read leaf by leaf: the memory that the host needs, and where the parts lie on several devices."""

import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion.models.interchange import leaf_shards, rows, tensor_files
from diffusion.models.interchange.rows import Row

ROOT = pathlib.Path(__file__).parents[3]
LAYERS, SIDE = 24, 1536  # one leaf of 24 tensors of 4.5 MiB, and their biases
SLACK = 4 * 2**20  # bytes, of Python's objects: less than a tensor in float32, and than a quarter of a shard
# A stack of dense layers in a file of float16, as one leaf here: the numbers of a layer say which it is. Prints what it
# finds as JSON. Several processes read one after another, so that the machine holds a part of the leaf at a time.
PROGRAM = """
import json, pathlib, sys, time
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
from diffusion.models import interchange
from diffusion.models.interchange import families, folders
from diffusion.models.interchange.rows import linear, stacked
from diffusion.training import sharding

place, depth, side = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:4])
sharding.initialize_distributed()


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.zeros, (depth, side, side))
        bias = self.param("bias", nn.initializers.zeros, (depth, side))
        return x @ kernel[0] + bias[0]


class Tower(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Layer(name="layer")(x)


def table(module):
    return [row for i in range(depth) for row in stacked(linear(f"layers.{i}", "layer"), i)]


family = interchange.Family(
    "Tower", Tower, lambda config: Tower(), lambda module: {}, lambda module: (jnp.zeros((1, side)),),
    {"diffusers": table})
families.FAMILIES["Tower"] = family


def size(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) * 1024


mesh = sharding.make_mesh({"data": 1, "fsdp": -1})
where = lambda shapes: sharding.shardings(shapes, mesh, ((".*", ()),))
jax.block_until_ready(jax.device_put(np.zeros(8)))
folders.shapes_of(family, Tower())
index = jax.process_index()
while index and not (place / f"{index - 1}").exists():
    time.sleep(0.01)
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before = size("VmRSS")
module, params = interchange.load(place, shardings=where)
jax.block_until_ready(params)
peak = size("VmHWM") - before
(place / f"{index}").touch()
held = {}
for leaf in jax.tree.leaves(params):
    for shard in leaf.addressable_shards:
        held[shard.device.id] = held.get(shard.device.id, 0) + shard.data.nbytes
expected = np.arange(depth, dtype=np.float32)[:, None, None]
print(json.dumps({
    "peak": peak, "held": list(held.values()), "total": sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
    "right": all(bool((np.asarray(shard.data) == expected[shard.index[:1]]).all())
                 for shard in params["layer"]["kernel"].addressable_shards),
    "sharded": all(str(leaf.sharding.spec) == str(place.spec) for leaf, place in zip(
        jax.tree.leaves(params), jax.tree.leaves(where(folders.shapes_of(family, module)))))}))
"""
WRITE = """
import json, pathlib, sys
import numpy as np
from safetensors.numpy import save_file
place, layers, side = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:4])
tensors = {f"layers.{i}.weight": np.full((side, side), i, np.float16) for i in range(layers)}
tensors |= {f"layers.{i}.bias": np.zeros(side, np.float16) for i in range(layers)}
save_file(tensors, place / "diffusion_pytorch_model.safetensors")
(place / "config.json").write_text(json.dumps({"_class_name": "Tower"}))
"""


def start(program, *arguments, devices=1, **variables):
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def result(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return output


def check(found, devices, of_process):
    """The peak is what the process' devices hold, and one tensor in the file's type."""
    assert found["right"] and found["sharded"]
    assert found["total"] > LAYERS * SIDE**2 * 4
    assert len(found["held"]) == of_process
    assert max(found["held"]) <= 1.01 * found["total"] / devices  # biases are whole on each
    assert found["peak"] >= sum(found["held"])
    assert found["peak"] <= sum(found["held"]) + SIDE**2 * 2 + SLACK, found


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_a_host_holds_the_parameters_and_one_tensor(tmp_path, devices):
    result(start(WRITE, tmp_path, LAYERS, SIDE))
    program = start(PROGRAM, tmp_path, LAYERS, SIDE, devices=devices)
    check(json.loads(result(program).splitlines()[-1]), devices, devices)


@pytest.mark.slow
def test_each_of_eight_processes_holds_its_part_and_one_tensor(tmp_path):
    result(start(WRITE, tmp_path, LAYERS, SIDE))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    names = {"DIFFUSION_COORDINATOR": coordinator, "DIFFUSION_PROCESS_COUNT": "8"}
    processes = [
        start(PROGRAM, tmp_path, LAYERS, SIDE, **names, DIFFUSION_PROCESS_INDEX=str(index)) for index in range(8)
    ]
    try:
        for process in processes:
            check(json.loads(result(process).splitlines()[-1]), 8, 1)
    finally:
        for process in processes:
            process.kill()


TABLES = {  # our leaf's shape, and its rows with the shapes of their tensors
    "a stack": ((3, 8, 6), [(Row(f"{i}", "a", rows.DENSE, (i,)), (6, 8)) for i in range(3)]),
    "queries, keys and values": (
        (2, 8, 3, 2, 4),
        [(Row(f"{i} {j}", "a", rows.DENSE, (i, slice(None), j)), (8, 8)) for i in range(2) for j in range(3)],
    ),
    "a range of an axis": (
        (6, 8, 2),
        [(Row("first", "a", rows.DENSE, (slice(None), slice(0, 3))), (6, 6)),
         (Row("rest", "a", rows.DENSE, (slice(None), slice(3, None))), (10, 6))],
    ),
    "rows of one tensor": (
        (2, 4, 6), [(Row("a", "a", rows.DENSE, (i,), (6 * i, 6 * i + 6)), (12, 4)) for i in range(2)]
    ),
    "a convolution": ((3, 3, 4, 8), [(Row("a", "a", rows.CONV), (8, 4, 3, 3))]),
    "patches": ((16, 6), [(Row("a", "a", rows.patches(2)), (6, 4, 2, 2))]),
    "a number": ((), [(Row("a", "a"), ())]),
    "no number": ((0, 4), [(Row("a", "a", rows.DENSE), (4, 0))]),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_the_blocks_of_a_leaf_are_cut_from_it(name, tmp_path):
    shape, entries = TABLES[name]
    rng = np.random.default_rng(0)
    stored = {row.theirs: rng.standard_normal(theirs).astype(np.float32) for row, theirs in entries}
    save_file(stored, tmp_path / "a.safetensors")
    expected = np.empty(shape, np.float32)
    for row, _ in entries:
        theirs = stored[row.theirs] if row.rows is None else stored[row.theirs][slice(*row.rows)]
        expected[*row.at, ...] = row.layout.to_ours(theirs, expected[*row.at, ...].shape)
    tensors = tensor_files.open_tensors(tmp_path / "a.safetensors")
    table = [row for row, _ in entries]
    parts = [{(0, side), *itertools.pairwise((0, side // 3, side // 2, side))} for side in shape]
    for block in itertools.product(*parts):
        found = leaf_shards._shard(table, tensors, shape, np.float32, block)
        np.testing.assert_array_equal(found, expected[*(slice(*sides) for sides in block), ...], err_msg=str(block))


def test_a_process_reads_no_tensor_of_which_its_devices_hold_nothing(tmp_path):
    """A layer that is not finite is refused where it is read, and seen nowhere else."""
    layers = {f"{i}": np.full((4, 6), np.nan if i == 2 else i, np.float32) for i in range(4)}
    save_file(layers, tmp_path / "a.safetensors")
    tensors = tensor_files.open_tensors(tmp_path / "a.safetensors")
    table = [Row(f"{i}", "a", rows.DENSE, (i,)) for i in range(4)]
    block = lambda first, last: ((first, last), (0, 6), (0, 4))
    found = leaf_shards._shard(table, tensors, (4, 6, 4), np.float32, block(0, 2))
    np.testing.assert_array_equal(found[:, 0, 0], [0, 1])
    with pytest.raises(ValueError, match="2 holds NaN"):
        leaf_shards._shard(table, tensors, (4, 6, 4), np.float32, block(2, 4))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_leaf_takes_its_own_bytes_and_less_than_a_tensor_s(dtype, tmp_path):
    """numpy reports what it allocates; JAX takes the array as it is, and the file is mapped."""
    layers = {f"{i}": np.full((512, 1024), i, ml_dtypes.bfloat16) for i in range(4)}
    save_file(layers, tmp_path / "a.safetensors")
    tensors = tensor_files.open_tensors(tmp_path / "a.safetensors")
    table = [Row(f"{i}", "a", rows.DENSE, (i,)) for i in range(4)]
    read = lambda: leaf_shards.placed(table, tensors, (4, 1024, 512), dtype, None)
    expected = np.asarray(read())
    tracemalloc.start()
    try:
        leaf = read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(leaf, expected)
    assert leaf.nbytes <= peak < leaf.nbytes + 512 * 1024 * 2 / 2


@pytest.mark.parametrize(
    "shape", [(), (0,), (7,), (300, 257), (257, 300, 3), (3, 200_000), (200_000, 3), (2, 70_000, 2)]
)
@pytest.mark.parametrize("backwards", [False, True])
def test_slabs_hold_each_number_once(shape, backwards):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    array = array.T if backwards else array
    slabs = list(tensor_files.slabs(array))
    assert all(slab.size <= tensor_files.PART and np.shares_memory(slab, array) for slab in slabs if array.size)
    np.testing.assert_array_equal(np.sort(np.concatenate([slab.ravel() for slab in slabs])), np.sort(array, axis=None))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "shape, axes",
    [
        ((300, 257), (1, 0)), ((300, 257), (0, 1)), ((6, 50, 200), (2, 0, 1)), ((6, 50, 200), (1, 2, 0)),
        ((130, 140, 3, 3), (2, 3, 1, 0)), ((130, 140, 1, 1), (2, 3, 1, 0)), ((7,), (0,)), ((), ()), ((0, 200), (1, 0)),
    ],
)  # fmt: skip
def test_an_array_in_any_order_is_copied_whole(shape, axes, dtype):
    theirs = np.arange(np.prod(shape, dtype=int), dtype=np.int32).reshape(shape).astype(np.float32).transpose(axes)
    ours = np.full(theirs.shape, -1, dtype)
    rows.fill(ours, theirs)
    np.testing.assert_array_equal(ours, theirs.astype(dtype))
    part = np.full((2, *theirs.shape), -1, dtype)
    rows.fill(part[1, ...], theirs)
    np.testing.assert_array_equal(part, np.stack([np.full(theirs.shape, -1, dtype), theirs.astype(dtype)]))
