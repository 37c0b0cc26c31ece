"""The layout of tokens in memory on a GPU: each device of a mesh lays out its part, and gathers nothing."""

import os
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

from diffusion.models.layers import layout

PROGRAM = """
from unittest import mock
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from diffusion.models.layers import layout
mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
x = jax.ShapeDtypeStruct((16, 4, 32), jnp.float32, sharding=NamedSharding(mesh, P("fsdp")))
def loss(x):
    with layout.over(mesh), mock.patch.object(jax, "default_backend", lambda: "gpu"):
        return jnp.square(layout.row_major(2 * x).sum(-1)).sum()
print(jax.jit(jax.value_and_grad(loss)).lower(x).compile().as_text())
"""


def test_each_device_of_a_mesh_lays_out_its_own_part():
    mesh = AbstractMesh((2, 4), ("fsdp", "sequence"), axis_types=(AxisType.Auto,) * 2)
    with layout.over(mesh), mock.patch.object(jax, "default_backend", lambda: "gpu"):
        (mapped,) = jax.make_jaxpr(layout.row_major)(jnp.zeros((8, 16, 3))).eqns
    (inner,) = mapped.params["jaxpr"].eqns
    assert mapped.primitive.name == "shard_map" and inner.primitive.name == "layout_constraint"
    assert inner.invars[0].aval.shape == (4, 4, 3)


@pytest.mark.slow
def test_no_device_gathers_the_tokens_of_others():
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all-reduce" in done.stdout and "all-gather" not in done.stdout  # the loss alone is of all devices
