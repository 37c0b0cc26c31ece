"""One run on any mesh, by any engine, in any number of processes: draws the same by hash, losses, and state."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 50
TRAIN = """
import hashlib, json, sys
import jax, numpy as np
from configs import digits
from diffusion.data import pipeline, sources
from diffusion.training import sharding
from diffusion.training.step import example_keys, prepare
from diffusion.recipe import Recipe, checks
from diffusion.recipe.parts import Resolver
from diffusion.experiments.run import program as programs

sharding.initialize_distributed()
config = digits.get_config("tiny")
config.model.heads, config.train.batch_size, config.optimizer.decay = 4, 16, "constant"
config.data.augment = ({"name": "crop", "padding": 1},)
config.mesh.update(json.loads(sys.argv[1]))
checks.validate(config)
mesh = sharding.make_mesh({axis: config.mesh[axis] for axis in sharding.AXES})
records, spec = sources.open_source(config.data.name, config.data.split, config.data.dir)
program = programs.build(Recipe.from_config(config, spec.shape), mesh)
state = sharding.create(program.init, program.target, program.seed)
objective, schedule = Resolver(config).objective, Resolver(config).schedule

def draws(batch, step, seed):
    seen = {}
    def network(x_t, clock, condition):
        seen.update(x_t=x_t, clock=clock, condition=condition)
        return x_t
    key = jax.random.split(jax.random.key(seed))[1]
    keys = example_keys(key, step, jax.numpy.arange(config.train.batch_size))
    objective({"model": network}, schedule, keys, prepare(batch), step)
    return {**batch, **seen}

everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
draws = jax.jit(draws, in_shardings=(sharding.batch_sharding(mesh), everywhere, everywhere), out_shardings=everywhere)
data = pipeline.batches(records, spec, seed=config.seed, batch_size=config.train.batch_size,
                        positions=sharding.positions(config.train.batch_size, mesh),
                        augment=Resolver(config).augmentations, threads=0)
hashes, losses = {}, []
for k in range(int(sys.argv[2])):
    batch = sharding.to_devices(next(data), mesh, config.train.batch_size)
    for name, drawn in jax.device_get(draws(batch, np.int32(k), program.seed)).items():
        hashes.setdefault(name, hashlib.sha256()).update(np.ascontiguousarray(drawn).tobytes())
    state, metrics = program.step(state, batch, program.seed)
    losses.append([float(metrics["loss"]), float(metrics["grad_norm"])])
average = jax.jit(lambda tree: jax.tree.map(lambda x: abs(x).sum(), tree), out_shardings=everywhere)(state.ema)
total = float(sum(jax.tree.leaves(jax.device_get(average))))
if jax.process_index() == 0:
    print(json.dumps({"draws": {n: h.hexdigest() for n, h in hashes.items()}, "losses": losses, "average": total}))
"""
LAYOUTS = {  # name: (processes, devices of each, config.mesh)
    "8": (1, 8, {}),
    "2x4": (1, 8, {"data": 2, "fsdp": 4}),
    "fsdp x sequence x tensor": (1, 8, {"fsdp": 2, "sequence": 2, "tensor": 2}),
    "sequence of 4": (1, 4, {"sequence": 4}),
    "a ring of 8, of 4 heads": (1, 8, {"sequence": 8}),
    "tensor of 4": (1, 4, {"tensor": 4}),
    "optimizer alone": (1, 4, {"data": 1, "fsdp": 4, "split": "optimizer"}),
    "pmap": (1, 4, {"kind": "pmap"}),
    "4 processes x 2": (4, 2, {"data": 2, "fsdp": 4}),
    "2 processes, tensor across both": (2, 2, {"tensor": 4}),
    "2 processes, pmap": (2, 2, {"kind": "pmap"}),
}


def run(program, processes, devices, *arguments):
    """What process 0 prints, of a run of that many processes with that many simulated devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    started = []
    for index in range(processes):
        place = {"COORDINATOR": address, "PROCESS_COUNT": str(processes), "PROCESS_INDEX": str(index)}
        of_this = env | ({f"DIFFUSION_{name}": value for name, value in place.items()} if processes > 1 else {})
        command = [sys.executable, "-c", program, *map(str, arguments)]
        started.append(
            subprocess.Popen(command, env=of_this, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
    try:
        outputs = [process.communicate(timeout=580) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs):
        assert process.returncode == 0, errors[-3000:]
    return outputs[0][0]


def train(processes, devices, mesh):
    return json.loads(run(TRAIN, processes, devices, json.dumps(mesh), STEPS).splitlines()[-1])


@pytest.fixture(scope="module")
def one():
    return train(1, 1, {})


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_is_the_same_on_any_mesh(one, layout):
    """50 steps: index, image, label, x_t, clock and condition exactly, losses and gradients up to the order of sums."""
    found = train(*LAYOUTS[layout])
    assert set(one["draws"]) == {"index", "image", "label", "x_t", "clock", "condition"}
    assert found["draws"] == one["draws"]
    assert len(found["losses"]) == STEPS
    ours = np.array(found["losses"]).T
    theirs = np.array(one["losses"]).T
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=2e-3)
    np.testing.assert_allclose(found["average"], one["average"], rtol=1e-5)


STATE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from configs import digits
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoint_writer, checkpoints
from diffusion.recipe import Recipe
from diffusion.recipe.parts import Resolver
from diffusion.experiments.run import program as programs

sharding.initialize_distributed()
workdir, meshes = sys.argv[1], json.loads(sys.argv[2])
config = digits.get_config("tiny")
config.train.batch_size = 16

def state_of(axes):
    size = int(np.prod(list(axes.values())))
    mesh = sharding.make_mesh(axes, jax.devices()[:size])
    program = programs.build(Recipe.from_config(config, (8, 8, 1)), mesh)
    return program.target, program.init

for axes in meshes:
    target, init = state_of(axes)
    found = checkpoints.restore_latest(workdir, target)
    state = found[0] if found else sharding.create(init, target, np.uint32(7))
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(target)):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
    saver = checkpoint_writer.Checkpoints(workdir, keep=100)
    saver.save(state._replace(step=state.step + 1))
    saver.close()
"""


def leaves(workdir, step):
    """Every leaf of a checkpoint by name, as one device reads it, without its step."""
    import jax

    from diffusion.training.checkpointing import checkpoints
    from diffusion.training.sharding import leaf_name

    trees = [checkpoints.load_params(workdir, step)[0], checkpoints.load_ema(workdir, step)[0]]
    about = checkpoints.read_about(workdir, step)
    sums = {name: leaf["checksum"] for name, leaf in about["leaves"].items() if name != "training/step"}
    return {leaf_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(trees)}, sums


ONE, EIGHT, TWO_BY_FOUR = {"data": 1}, {"data": 8}, {"data": 2, "fsdp": 4}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 4])
def test_a_state_goes_through_any_mesh_unchanged(tmp_path, processes):
    """1 -> 8 -> 2x4 -> fsdp x tensor -> 1 devices; and one process -> four -> one."""
    if processes == 1:
        run(STATE, 1, 8, tmp_path, json.dumps([ONE, EIGHT, TWO_BY_FOUR, {"fsdp": 4, "tensor": 2}, ONE]))
        steps = 5
    else:
        run(STATE, 1, 1, tmp_path, json.dumps([ONE]))
        run(STATE, 4, 2, tmp_path, json.dumps([TWO_BY_FOUR, {"fsdp": 8}]))
        run(STATE, 1, 1, tmp_path, json.dumps([ONE]))
        steps = 4
    first, first_sums = leaves(tmp_path, 1)
    last, last_sums = leaves(tmp_path, steps)
    assert first_sums == last_sums and len(first_sums) > 20  # optimizer included
    assert first.keys() == last.keys() and all(np.array_equal(first[name], last[name]) for name in first)


COMPILED = """
import json, re
import jax, numpy as np
from configs import digits
from diffusion.training import sharding
from diffusion.recipe import Recipe
from diffusion.recipe.parts import Resolver
from diffusion.experiments.run import program as programs

config = digits.get_config("tiny")
config.model.update({"heads": 8, "width": 128, "depth": 2, "unroll": 2})  # unrolled: XLA counts a scan's body once
config.train.update({"batch_size": 64, "accumulate": 1})  # of micro-batches, too, one is counted
found = {}
for axis in ("one", "sequence", "tensor"):
    axes = {"data": 1} | ({} if axis == "one" else {axis: 8})
    mesh = sharding.make_mesh(axes, jax.devices()[:1 if axis == "one" else 8])
    program = programs.build(Recipe.from_config(config, (8, 8, 1)), mesh)
    compiled = program.step.lower(program.target, program.batch, program.seed).compile()
    kinds = {kind: len(re.findall(kind + r"\\(", compiled.as_text())) for kind in ("all-to-all", "all-gather")}
    sizes = [np.prod(leaf.sharding.shard_shape(leaf.shape)) * 4 for leaf in jax.tree.leaves(program.target)]
    found[axis] = {"flops": compiled.cost_analysis()["flops"], "state": float(sum(sizes)), **kinds}
print(json.dumps(found))
"""


@pytest.mark.slow
def test_each_axis_splits_the_work_and_what_it_promises():
    found = json.loads(run(COMPILED, 1, 8))
    one = found.pop("one")
    for axis, split in found.items():
        assert split["flops"] < 1.4 * one["flops"] / 8, axis  # with sequence, the conditioning is everyone's
    assert found["sequence"]["all-to-all"] == 2 * 2 * 2  # before and after attention, in two layers, and backwards
    assert found["sequence"]["all-gather"] == 0
    assert found["tensor"]["state"] <= 1.6 * one["state"] / 8  # embeddings and norms are everyone's
