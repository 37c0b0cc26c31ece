"""A video's tokens over simulated devices, by Ulysses' exchange and in a ring: loss and gradients stay the same."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np
from diffusion.models import VideoDiT
from diffusion.models.layers import layout
from diffusion.training import sharding
from tests.models import backbones

x, t = backbones.drawn(2, 4, 8, 8, 3), np.float32([[0.1, 0.3, 0.5, 0.9], [0.7] * 4])
for mixing in ("factorised", "full"):
    for heads in (4, 2):
        module = VideoDiT(patch=4, width=32, depth=2, heads=heads, mixing=mixing)
        params = backbones.parameters(backbones.Backbone(module, (4, 8, 8, 3), lambda batch: None))
        mesh = sharding.make_mesh({"data": 2, "fsdp": 1, "sequence": 4, "tensor": 1})

        def loss(params, x, t, mesh=None):
            if mesh is None:
                return jnp.square(module.apply({"params": params}, x, t)).mean()
            with layout.over(mesh):
                return jnp.square(module.apply({"params": params}, x, t)).mean()

        whole = jax.jit(jax.value_and_grad(loss))(params, x, t)
        batch = jax.device_put((x, t), sharding.batch_sharding(mesh))
        split = jax.jit(jax.value_and_grad(lambda *a: loss(*a, mesh=mesh)))
        program = split.lower(params, *batch).compile().as_text()
        differ = lambda a, b: float(np.abs(a - b).max() / (np.abs(b).max() + 1e-9))
        error = jax.tree.map(differ, split(params, *batch), whole)
        print(json.dumps({"mixing": mixing, "heads": heads, "error": max(jax.tree.leaves(error)),
                          "exchanges": program.count("all-to-all("), "ring": program.count("collective-permute(")}))
"""


@pytest.mark.slow
def test_frames_over_the_sequence_axis():
    flags = "--xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=env, cwd=ROOT, text=True, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 4
    for row in found:
        assert row["error"] < 1e-4, row
        assert row["ring" if row["heads"] == 2 else "exchanges"] > 0, row  # two heads do not divide over four devices
