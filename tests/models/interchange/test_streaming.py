"""A checkpoint read leaf by leaf: what it takes of the host's memory, and where its parts lie on several devices."""

import json
import os
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from diffusion.models.interchange import rows

ROOT = pathlib.Path(__file__).parents[3]
LAYERS, SIDE = 24, 1536  # 24 leaves of 9 MiB, and their biases
# A tower of dense layers in a file of float16: the numbers of a leaf say which it is. Prints what it finds as JSON.
PROGRAM = """
import json, sys
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
from diffusion.models import interchange
from diffusion.models.interchange import families, folders
from diffusion.models.interchange.rows import linear
from diffusion.training import sharding

path, layers, side, fsdp = sys.argv[1], *map(int, sys.argv[2:5])


class Tower(nn.Module):
    @nn.compact
    def __call__(self, x):
        for i in range(layers):
            x = nn.Dense(side, name=f"layer_{i}")(x)
        return x


def table(module):
    return [row for i in range(layers) for row in linear(f"layers.{i}", f"layer_{i}")]


family = interchange.Family(
    "Tower", Tower, lambda config: Tower(), lambda module: {}, lambda module: (jnp.zeros((1, side)),),
    {"diffusers": table})
families.FAMILIES["Tower"] = family


def megabytes(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024


mesh = sharding.make_mesh({"data": 1, "fsdp": fsdp})
where = lambda shapes: sharding.shardings(shapes, mesh, ((".*", ()),))
jax.block_until_ready(jax.device_put(np.zeros((side, 8)), where({"a": np.zeros((side, 8))})["a"]))
folders.shapes_of(family, Tower())
before = megabytes("VmRSS")
module, params = interchange.load(path, shardings=where)
jax.block_until_ready(params)
held = [0] * fsdp
for leaf in jax.tree.leaves(params):
    for shard in leaf.addressable_shards:
        held[shard.device.id] += shard.data.nbytes / 2**20
print(json.dumps({
    "peak": megabytes("VmHWM") - before, "held": held,
    "total": sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 2**20,
    "right": all(bool((params[f"layer_{i}"]["kernel"] == i).all()) for i in range(layers)),
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


def run(program, *arguments, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_a_leaf_at_a_time_goes_where_it_belongs(tmp_path, devices):
    """Beside the parameters themselves the host holds a leaf or two, so that devices take what it could not hold."""
    run(WRITE, tmp_path, LAYERS, SIDE)
    found = json.loads(run(PROGRAM, tmp_path, LAYERS, SIDE, devices, devices=devices).splitlines()[-1])
    assert found["right"] and found["sharded"]
    leaf = SIDE**2 * 4 / 2**20
    assert found["total"] > 20 * leaf
    assert max(found["held"]) <= 1.01 * found["total"] / devices  # biases are whole on each
    assert found["peak"] <= found["total"] + 3 * leaf, found


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
