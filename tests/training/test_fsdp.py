"""The state split over devices from its birth: what each holds, and that nothing it computes changes."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
BYTES = """
import json, jax
from configs import digits
from diffusion.training import ema, sharding, state
from diffusion.recipe import Recipe
from diffusion.recipe.parts import Resolver
import jax.numpy as jnp

config = digits.get_config()
model, optimizer = Resolver(config).model(), Resolver(config).optimizer
average = ema.exponential_moving_average()

def init(seed):
    params = model.init(jax.random.key(seed), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    return state.create(params, optimizer, average)

def held(tree, parts):
    # The bytes of the live arrays on the device that holds most.
    of = [0] * parts
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            of[shard.device.id] += shard.data.nbytes
    return max(of)

found = {}
for split, sizes in {"all": (1, 2, 4, 8), "optimizer": (8,)}.items():
    for parts in sizes:
        mesh = sharding.make_mesh({"data": 1, "fsdp": parts}, jax.devices()[:parts])
        live = sharding.create(init, sharding.abstract(init, mesh, sharding.RULES, 0, whole=sharding.WHOLE[split]), 0)
        found[f"{split} {parts}"] = [held(live.params, parts), held(live._replace(params=None), parts)]
print(json.dumps(found))
"""
TRAIN = """
import sys
from configs import digits
from diffusion.experiments import train
config = digits.get_config("tiny")
config.mesh.data, config.mesh.fsdp, config.train.steps = map(int, sys.argv[2:5])
config.train.batch_size, config.optimizer.decay = 16, "constant"
config.evaluate.every = int(sys.argv[5])
config.optimizer.name = sys.argv[6]
sys.exit(train.run(config, sys.argv[1]))
"""
SAMPLE = """
import jax, jax.numpy as jnp, numpy as np
from configs import digits
from diffusion.training import sharding
from diffusion.recipe import Recipe
from diffusion.recipe.parts import Resolver
from diffusion.experiments.sampling import generate

config = digits.get_config("tiny")
config.sample.batch_size, config.model.heads = 13, 4
labels, seeds = generate.balanced_labels(30, 10), generate.seeds(config, 30)

def init(seed):
    params = Resolver(config).model((8, 8, 1)).init(
        jax.random.key(seed), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), params)

whole = generate.generator(Recipe.from_config(config, (8, 8, 1))).images(jax.jit(init)(0), labels, seeds)
assert np.ptp(whole) > 50
for axes in ({"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "fsdp": 2, "sequence": 2, "tensor": 2}):
    mesh = sharding.make_mesh(axes)
    params = sharding.create(init, sharding.abstract(init, mesh, sharding.RULES, 0), 0)
    split = generate.generator(Recipe.from_config(config, (8, 8, 1)), mesh).images(params, labels, seeds)
    print(np.abs(split.astype(int) - whole).max())
"""


def run(program, devices, *arguments):
    """What a process with that many simulated devices prints."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=env, cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def rows(workdir):
    """The lines of metrics.jsonl that tell of training steps."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


@pytest.mark.slow
def test_each_device_holds_its_share_of_the_state():
    held = json.loads(run(BYTES, 8))
    params, rest = held["all 1"]
    for parts in (2, 4, 8):
        assert sum(held[f"all {parts}"]) <= 1.1 * (params + rest) / parts, held
    assert held["optimizer 8"][0] == params and held["optimizer 8"][1] <= 1.1 * rest / 8, held


@pytest.mark.slow
def test_samples_made_on_a_mesh_are_those_of_one_device():
    """Whatever the mesh, and though its devices do not divide the batch; a byte may round to its neighbour."""
    differences = [int(line) for line in run(SAMPLE, 8).split()]
    assert len(differences) == 3 and max(differences) <= 1, differences


@pytest.mark.slow
@pytest.mark.parametrize(("data", "fsdp", "optimizer"), [(1, 4, "adamw"), (2, 4, "adamw"), (1, 4, "muon")])
def test_split_state_trains_as_a_whole_one(tmp_path, data, fsdp, optimizer):
    """50 steps: the same draws exactly, the same losses up to the order of sums; and on, from a split checkpoint."""
    run(TRAIN, 1, tmp_path / "one", 1, 1, 50, 0, optimizer)
    run(TRAIN, data * fsdp, tmp_path / "split", data, fsdp, 30, 20, optimizer)
    run(TRAIN, 1, tmp_path / "split", 1, 1, 50, 0, optimizer)  # the mesh may change
    one = rows(tmp_path / "one")
    split = rows(tmp_path / "split")
    assert [row["step"] for row in one] == [row["step"] for row in split] == [10, 20, 30, 40, 50]
    for ours, theirs in zip(split, one):
        assert ours["count_by_t"] == theirs["count_by_t"]
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)
        np.testing.assert_allclose(ours["grad_norm"], theirs["grad_norm"], rtol=1e-3)
    assert (tmp_path / "split/previews/20.png").exists()  # evaluated where the moving average lies
