import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoints

ROOT = pathlib.Path(__file__).parents[2]


def test_mesh_of_all_devices():
    mesh = sharding.make_mesh({"data": -1})
    assert mesh.axis_names == ("data", "fsdp", "sequence", "tensor") and mesh.size == len(jax.devices())


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"data": 3000}, "does not fit"),
        ({"dta": 1}, "'dta'"),
        ({"data": 0}, "sizes must be at least 1"),
        ({"data": -2}, "sizes must be at least 1"),
    ],
)
def test_mesh_that_cannot_be(axes, words):
    with pytest.raises(ValueError, match=words):
        sharding.make_mesh(axes)


def test_a_mesh_without_fsdp_splits_nothing():
    mesh = jax.sharding.AbstractMesh((2,), ("data",))
    found = sharding.shardings(
        {"kernel": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}, mesh, ((".*", ()),), whole="^$"
    )
    assert found["kernel"].spec == PartitionSpec()


def test_first_rule_that_fits_decides():
    mesh = sharding.make_mesh({"data": -1})
    shapes = {"blocks": {"kernel": jnp.zeros((4, 4)), "bias": jnp.zeros(4)}, "head": {"kernel": jnp.zeros((4, 4))}}
    rules = ((r"blocks/.*kernel", (None, "data")), (r"kernel", ("data",)), (".*", ()))
    specs = jax.tree.map(lambda s: s.spec, sharding.shardings(shapes, mesh, rules))
    assert specs["blocks"]["kernel"] == PartitionSpec(None, "data")
    assert specs["head"]["kernel"] == PartitionSpec(None, "data")  # axes stand for the last dimensions
    assert specs["blocks"]["bias"] == PartitionSpec()
    with pytest.raises(ValueError, match="'head/kernel'"):
        sharding.shardings(shapes, mesh, ((r"blocks", ()),))


def test_index_beyond_31_bits_keeps_its_stratum():
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    batch = sharding.to_devices({"index": np.array([5, 2**31 + 5, 3 * 2**31 + 7])}, mesh, 3)
    np.testing.assert_array_equal(batch["index"], [5, 5, 7])


def test_integers_of_a_condition_keep_their_values_or_are_refused():
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    ends = np.array([-(2**31), -3, 2**31 - 1])
    batch = sharding.to_devices({"condition": {"degrees": ends}}, mesh, 3)
    assert batch["condition"]["degrees"].dtype == np.int32
    np.testing.assert_array_equal(batch["condition"]["degrees"], ends)
    for wide in (ends - 1, ends + 1, ends.astype(np.uint64)):
        with pytest.raises(ValueError, match=r"condition/degrees of a batch holds integers from -?\d+ to \d+, and "):
            sharding.to_devices({"condition": {"degrees": wide}}, mesh, 3)


def test_environment_of_several_processes(monkeypatch):
    for name in ("COORDINATOR", "PROCESS_COUNT", "PROCESS_INDEX"):
        monkeypatch.delenv(f"DIFFUSION_{name}", raising=False)
    assert sharding.initialize_distributed() is False
    monkeypatch.setenv("DIFFUSION_PROCESS_COUNT", "2")
    with pytest.raises(ValueError, match=r"not set: DIFFUSION_COORDINATOR, DIFFUSION_PROCESS_INDEX"):
        sharding.initialize_distributed()
    monkeypatch.setenv("DIFFUSION_COORDINATOR", "127.0.0.1:1")
    monkeypatch.setenv("DIFFUSION_PROCESS_INDEX", "2")
    with pytest.raises(ValueError, match="PROCESS_INDEX = 2"):
        sharding.initialize_distributed()
    for name, wrong, words in (
        ("COORDINATOR", "localhost", "HOST:PORT of process 0"),
        ("PROCESS_COUNT", "two", "a whole number, 1 or more"),
        ("PROCESS_COUNT", "0", "a whole number, 1 or more"),
        ("PROCESS_INDEX", "-1", "a whole number, 0 or more"),
    ):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=f"{name} = '{wrong}' must be .*{words}"):
            patch.setenv(f"DIFFUSION_{name}", wrong)
            sharding.initialize_distributed()


def test_a_tpu_pod_knows_its_processes(monkeypatch):
    for name in ("PROCESS_COUNT", "PROCESS_INDEX"):
        monkeypatch.delenv(f"DIFFUSION_{name}", raising=False)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setenv("DIFFUSION_COORDINATOR", "auto")
    assert sharding.initialize_distributed() is False  # of one process here
    assert calls == [((), sharding.limits())]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert sharding.initialize_distributed() is True


def test_the_limits_of_a_run_of_several_processes(monkeypatch):
    for variable, _ in sharding.LIMITS.values():
        monkeypatch.delenv(variable, raising=False)
    usual = sharding.limits()
    assert usual["heartbeat_timeout_seconds"] > 60 and usual["shutdown_timeout_seconds"] > 60  # a machine is moved live
    monkeypatch.setenv("DIFFUSION_HEARTBEAT_SECONDS", "1800")
    assert sharding.limits() == {**usual, "heartbeat_timeout_seconds": 1800}
    for wrong in ("0", "-1", "1.5", "5m"):
        monkeypatch.setenv("DIFFUSION_SHUTDOWN_SECONDS", wrong)
        with pytest.raises(
            ValueError, match=f"DIFFUSION_SHUTDOWN_SECONDS = '{wrong}' must be an integer number of seconds"
        ):
            sharding.limits()


CHILD = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoint_writer, checkpoints
from diffusion.training.checkpointing.checksums import checksums
from diffusion.training.step import make_train_step
from tests.training import toys

devices, workdir, accumulate = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
mesh = sharding.make_mesh({"data": -1})
assert mesh.size == devices and sharding.one_step_in_flight(mesh) == (devices > 1)
rules = ((r"hidden/kernel", (None, "data")), (".*", ())) if workdir else sharding.RULES
target = sharding.abstract(toys.make_state, mesh, rules, 0)
state = sharding.create(toys.make_state, target, 0)
for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(target)):
    assert leaf.sharding == wanted.sharding
if workdir and checkpoints.latest(workdir) is not None:
    state, _ = checkpoints.restore_latest(workdir, target)

def objective(networks, schedule, keys, batch, step):
    losses, metrics = toys.objective(networks, schedule, keys, batch, step)
    return losses, {"t": metrics["t"]}

class Recorder:  # keeps every t that was drawn
    init = staticmethod(lambda: jnp.zeros(16))
    update = staticmethod(lambda state, t, losses: t)

state = state._replace(density=jnp.zeros(16))
where = jax.tree.map(lambda leaf: leaf.sharding, target)._replace(density=sharding.batch_sharding(mesh))
step = jax.jit(
    make_train_step(objective, toys.apply, None, toys.optimizer(), toys.ema(), Recorder, accumulate, mesh.size),
    donate_argnums=0, out_shardings=(where, None))
first, losses, draws = int(state.step), [], []
for k in range(first, first + (5 if workdir else 10)):
    state, metrics = step(state, sharding.to_devices(toys.batch(k), mesh, 16), jax.random.key(3))
    jax.block_until_ready(state)
    losses.append(float(metrics["loss"]))
    draws.append(np.asarray(state.density).tobytes().hex())
state = state._replace(density=())
if workdir:
    saver = checkpoint_writer.Checkpoints(workdir)
    saver.save(state)
    saver.close()
print(json.dumps({"losses": losses, "draws": draws, "sums": checksums(state.params),
                  "total": float(sum(jnp.abs(x).sum() for x in jax.tree.leaves(state.params)))}))
"""


def start(devices, workdir="", accumulate=1):
    """Trains the toy in a process of its own with that many simulated devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(devices), str(workdir), str(accumulate)]
    return subprocess.Popen(command, env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def result(process):
    """What the process tells at its end."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])


@pytest.mark.slow
def test_devices_accumulation_and_resharding_change_no_draw(tmp_path):
    """Ten steps on one device, against five on four with split parameters and, from their checkpoint, five on two.

    Every t is the very same; losses agree up to the order of sums; the checksums that four devices wrote hold on two.
    """
    one, four = map(result, (start(1), start(4, tmp_path)))
    two = result(start(2, tmp_path, accumulate=2))
    assert four["draws"] + two["draws"] == one["draws"]
    np.testing.assert_allclose(four["losses"] + two["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_allclose(two["total"], one["total"], rtol=1e-5)
    params, step = checkpoints.load_params(tmp_path)  # verifies the sums that two devices made, on one
    assert step == 10
    np.testing.assert_allclose(sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(params)), two["total"], rtol=1e-6)


def test_batch_must_divide():
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    sharding.check_batch_size(6, mesh, 3)
    with pytest.raises(ValueError, match=r"train.batch_size = 7 .* over 1 devices and 3 micro-batches; .* of 3"):
        sharding.check_batch_size(7, mesh, 3)
    with pytest.raises(ValueError, match=r"train\.batch_size = 0 does not divide evenly over 1 devices"):
        sharding.check_batch_size(0, mesh)


def test_a_mesh_is_of_the_devices_that_it_is_for(monkeypatch):
    seen = []
    monkeypatch.setattr(jax, "make_mesh", lambda shape, names, *, axis_types, devices: seen.append((shape, devices)))
    sharding.make_mesh({"data": -1}, jax.devices()[:1])
    assert seen == [((1, 1, 1, 1), jax.devices()[:1])]


@pytest.mark.parametrize(
    ("size", "platform", "expected"), [(2, "cpu", True), (1, "cpu", False), (2, "gpu", False), (8, "tpu", False)]
)
def test_one_step_is_in_flight_on_several_cpu_devices_alone(size, platform, expected):
    devices = np.array([types.SimpleNamespace(platform=platform)] * size)
    assert sharding.one_step_in_flight(types.SimpleNamespace(size=size, devices=devices)) == expected


def test_the_largest_side_that_divides_is_split_and_small_leaves_are_not():
    """On a mesh of two by two that needs no devices; expected by hand."""
    mesh = jax.sharding.AbstractMesh((2, 2), ("fsdp", "tensor"))
    rules = (("mlp/kernel$", (None, "tensor")), (".*", ()))
    leaf = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
    least = sharding.SMALLEST_SPLIT
    shapes = {
        "mlp": {"kernel": leaf(3, least, 8)},  # stacked layers: the rule is of the last two sides
        "wide": {"mlp": {"kernel": leaf(least, 2 * least)}},  # the largest side is that of the rule
        "odd": leaf(least + 1, 6),
        "even": leaf(6, least),
        "small": leaf(2, least // 2 - 2),
        "exact": leaf(2, least // 2),
        "none": leaf(2 * least + 1),
    }
    found = jax.tree.map(lambda of: of.spec, sharding.shardings(shapes, mesh, rules, whole="^$"))
    spec = jax.sharding.PartitionSpec
    assert found == {
        "mlp": {"kernel": spec(None, "fsdp", "tensor")},
        "wide": {"mlp": {"kernel": spec("fsdp", "tensor")}},
        "odd": spec(None, "fsdp"),
        "even": spec(None, "fsdp"),
        "small": spec(),
        "exact": spec(None, "fsdp"),
        "none": spec(),
    }
    whole = jax.tree.map(lambda of: of.spec, sharding.shardings(shapes, mesh, rules, whole="^mlp|^even"))
    assert whole["mlp"]["kernel"] == spec(None, None, "tensor") and whole["even"] == spec()
    assert whole["odd"] == spec(None, "fsdp")
    with pytest.raises(sharding.MeshError, match=r"tensor = 2 does not divide the 7 of mlp/kernel \(4, 7\)"):
        sharding.shardings({"mlp": {"kernel": leaf(4, 7)}}, mesh, rules)


@pytest.mark.parametrize("count, index, several", [("1", "0", False), ("3", "2", True)])
def test_a_process_joins_those_that_the_environment_names(monkeypatch, count, index, several):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **words: joined.append((args, words)))
    environment = {
        "DIFFUSION_COORDINATOR": "host:1",
        "DIFFUSION_PROCESS_COUNT": count,
        "DIFFUSION_PROCESS_INDEX": index,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert sharding.initialize_distributed() is several
    if several:
        ((args, words),) = joined
        assert args == ("host:1",) and (words["num_processes"], words["process_id"]) == (3, 2)
    else:
        assert joined == []
    monkeypatch.setenv("DIFFUSION_PROCESS_INDEX", count)
    with pytest.raises(ValueError, match=rf"DIFFUSION_PROCESS_INDEX = {count}: must be in \[0, {count}\)"):
        sharding.initialize_distributed()


def test_a_state_is_made_in_its_sharding():
    mesh = sharding.make_mesh({"data": -1})
    init = lambda scale: {"kernel": scale * jnp.arange(6.0).reshape(2, 3)}
    target = sharding.abstract(init, mesh, ((".*", ()),), jnp.float32(2))
    assert target["kernel"].shape == (2, 3) and target["kernel"].dtype == jnp.float32
    made = sharding.create(init, target, jnp.float32(2))["kernel"]
    np.testing.assert_array_equal(made, 2 * np.arange(6).reshape(2, 3))
    assert made.sharding == target["kernel"].sharding and made.sharding.mesh == mesh
