"""Plans of networks without formulas: the state and the operations of a traced step, against answers by hand."""

import io
import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from rich.console import Console

from diffusion.experiments import plan
from diffusion.experiments.planning import tables, traced
from diffusion.experiments.planning.machines import MACHINES, Machine
from diffusion.experiments.run import program as programs
from diffusion.recipe import checks, recipes, values
from diffusion.training.state import TrainState

BATCH, LENGTH, WIDTH, SYMBOLS = 8, 16, 16, 28  # symbols/prose:tiny, which has one layer


@pytest.fixture(scope="module")
def planned():
    return plan.plan(recipes.load("symbols/prose:tiny"), 1, ("h100", "v5p"))


@pytest.mark.extended
def test_the_state_has_its_exact_bytes(planned):
    layer = 3 * WIDTH**2 + WIDTH**2 + (4 * WIDTH**2 + 4 * WIDTH) + (4 * WIDTH**2 + WIDTH) + 2 * WIDTH
    parameters = SYMBOLS * WIDTH + layer + WIDTH
    memory = planned["machines"]["h100"]["memory"]
    assert planned["parameters"] == parameters
    assert memory["parameters"] == memory["average"] == 4 * parameters and memory["others"] == 0
    assert memory["optimizer"] == 8 * parameters + 4 + 4  # two moments and two counts of steps


@pytest.mark.extended
def test_the_operations_are_three_times_the_forward_pass(planned):
    """Every product has a gradient by both of its factors; nothing else of the step multiplies matrices."""
    products = LENGTH * WIDTH * (3 * WIDTH + WIDTH + 4 * WIDTH + 4 * WIDTH + SYMBOLS) + 2 * LENGTH**2 * WIDTH
    assert planned["flops"] == {"step": 3 * 2 * BATCH * products}
    seconds = planned["machines"]["v5p"]["seconds"]
    assert seconds["compute"] == planned["flops"]["step"] / MACHINES["v5p"].flops and seconds["network"] == 0


@pytest.mark.extended
def test_products_in_fp8_take_half_the_time_where_a_machine_has_them(planned):
    """The products of the layer's kernels with tokens; attention and the symbols stay in the run's type."""
    config = recipes.load("symbols/prose:tiny")
    config.train.products = "fp8"
    machines = plan.plan(config, 1, MACHINES)["machines"]
    seconds = {name: entry["seconds"]["compute"] for name, entry in machines.items()}
    without = ("a100-40gb", "a100-80gb", "v5p", "v6e")
    assert tuple(name for name, entry in machines.items() if entry["refused"]) == without
    assert not any(entry["refused"] for entry in planned["machines"].values())
    step = planned["flops"]["step"]
    in_fp8 = 3 * 2 * BATCH * LENGTH * WIDTH * (3 * WIDTH + WIDTH + 4 * WIDTH + 4 * WIDTH)
    assert 0.3 * step < in_fp8 < step
    for name, machine in MACHINES.items():
        other = 2 if machine.platform == "gpu" and config.train.dtype == "float32" else 1  # TensorFloat-32's half rate
        fp8 = 1 if name in without else 0.5  # XLA widens them where there are none
        expected = ((step - in_fp8) * other + in_fp8 * fp8) / machine.flops
        assert seconds[name] == pytest.approx(expected), name


def test_the_temporary_memory_holds_the_gradients_and_the_residuals(planned):
    """At least the factors and logits of each position; at most five times these with the gradients.

    The gradients appear as the logits go, so that no moment need hold both (under jax 0.11 none does).
    """
    factors = WIDTH * (1 + 3 + 1 + 1 + 4)  # read by qkv; q, k and v; read by out, the MLP and its second layer
    residuals, gradients = 4 * BATCH * LENGTH * (factors + SYMBOLS), 4 * planned["parameters"]
    memory = planned["machines"]["h100"]["memory"]
    assert memory["gradients"] == gradients
    assert residuals < gradients + memory["trace"] < 5 * (residuals + gradients)


def test_an_accelerator_takes_the_batch_whole_though_a_cpu_that_traces_it_would_not(planned):
    assert planned["images"]["micro_batches"] == 1


def test_devices_that_split_the_batch_alone_each_hold_all_gradients():
    """Each of 8 has an eighth of what a batch leaves, and every gradient; in micro-batches, every one and its sum."""

    def step(target, batch, seed):
        return jax.grad(lambda kernel: ((jnp.tanh(batch @ kernel) @ kernel.T) ** 2).sum())(target.params)

    def memory(sizes, axis, micro_batches=1):
        mesh = AbstractMesh(sizes, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
        sharding = NamedSharding(mesh, PartitionSpec(axis))
        kernel = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=sharding)
        batch = jax.ShapeDtypeStruct((256, 64), jnp.float32)
        target = TrainState(None, kernel, (), kernel, (), None)
        numbers = {"tuned": None, "micro_batches": micro_batches}
        program = types.SimpleNamespace(jitted=step, target=target, batch=batch, seed=None, **numbers)
        return traced._memory(traced.Step(mesh, program, 0))

    one, eight, split = memory((1, 1), None), memory((8, 1), None), memory((1, 8), "fsdp")
    assert one["gradients"] == eight["gradients"] == 4 * 64 * 64 and split["gradients"] == 4 * 64 * 64 / 8
    assert eight["trace"] == split["trace"] == one["trace"] / 8 > 0
    twice = memory((8, 1), None, micro_batches=2)
    assert twice["gradients"] == 2 * eight["gradients"] and twice["trace"] == eight["trace"] - eight["gradients"] / 8


@pytest.mark.extended
def test_a_step_under_pmap_is_planned_as_under_jit(planned):
    config = recipes.load("symbols/prose:tiny")
    config.mesh.kind = "pmap"
    pmapped = plan.plan(config, 1, ("h100", "v5p"))
    assert {**pmapped, "config_hash": planned["config_hash"]} == planned
    recipe = plan._for_examples(config, checks.validate(config))
    program = programs.build(recipe, programs.mesh_of(config, jax.devices()[:1]))
    programs.check_memory(program, "a step")  # which a run does, too


def test_data_say_what_a_network_receives_beside_the_shape_that_a_config_states(tmp_path):
    config = recipes.load("video/pairs:tiny")
    config.data.shape = (16, 48, 48, 3)
    recipe = plan._for_examples(config, checks.validate(config))
    assert recipe.examples.shape == (16, 48, 48, 3) and recipe.examples.null["vector"].shape == (56,)
    config.data.source = {"name": "captioned_images", "path": str(tmp_path / "not here")}
    assert plan._for_examples(config, checks.validate(config)).examples.shape == (16, 48, 48, 3)


@pytest.mark.extended
def test_a_dit_that_its_objective_evaluates_more_than_once_has_the_operations_of_its_trace():
    """MeanFlow's derivative in time evaluates the network in forward mode too: more than forward and backward."""
    operations = plan.plan(recipes.load("digits_mean_flow:tiny"), 1, ())["flops"]
    config = recipes.load("digits:tiny")
    once = plan.plan(config, 1, ())["flops"]
    assert once.keys() == {"model", "recomputed"} and operations["step"] > 1.2 * once["model"]


@pytest.mark.extended
def test_a_model_that_rests_in_most_steps_has_the_mean_operations(tmp_path):
    """In passes of the network, DMD's scores take 1 + 3 in each step, and its generator 3 + 2 + 1 in each fifth."""
    (tmp_path / "config.json").write_text(values.to_json(recipes.load("digits:tiny")))
    config = recipes.load(f"students/dmd:{tmp_path},tiny")

    def operations(updates):
        config.second_player.updates = updates
        return plan.plan(config, 1, ())["flops"]["step"]

    assert operations(5) / operations(1) == pytest.approx((4 + 6 / 5) / (4 + 6), rel=0.01)


def test_it_is_printed_in_the_units_of_its_data(planned):
    console = Console(width=110, file=io.StringIO(), record=True)
    tables.show(planned, console)
    text = console.export_text()
    assert "a step is 8 sequences, 8 a device" in text and "FLOPs of the whole step" in text


def test_whole_gradients_are_summed_and_split_parameters_gathered_twice():
    """Of a ring of 8: 7/8 of the bytes twice, or three times; what the axis tensor splits is a part from the start."""
    mesh = AbstractMesh((2, 4, 1, 2), ("data", "fsdp", "sequence", "tensor"), axis_types=(AxisType.Auto,) * 4)
    leaf = lambda *axes: jax.ShapeDtypeStruct((64, 8), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*axes)))
    whole = 4 * 64 * 8
    assert traced._sent(leaf(), mesh) == 2 * whole * 7 / 8
    assert traced._sent(leaf("fsdp"), mesh) == 3 * whole * 7 / 8
    assert traced._sent([leaf("fsdp", "tensor"), leaf(None, "tensor")], mesh) == (3 + 2) * whole / 2 * 7 / 8


@pytest.mark.extended
@pytest.mark.parametrize("name, unit", [("series/forecast", "examples"), ("sound/tones", "examples")])
def test_data_that_bring_a_condition_are_planned_with_it(name, unit):
    planned = plan.plan(recipes.load(f"{name}:tiny"), 1, ("h100",))
    assert planned["unit"] == unit and planned["flops"]["step"] > 0


MESH = AbstractMesh((2, 4, 1, 2), ("data", "fsdp", "sequence", "tensor"), axis_types=(AxisType.Auto,) * 4)


def leaf(number):
    return jax.ShapeDtypeStruct((number,), jnp.float32, sharding=NamedSharding(MESH, PartitionSpec()))


def a_program(tuned):
    """Parameters of 40 bytes, 80 of the optimizer, 120 of the average, and 4, 8 and 12 of other networks."""
    target = types.SimpleNamespace(
        params=leaf(10), opt_state=leaf(20), ema=leaf(30), frozen=leaf(1), second_players=leaf(2), unsaved=leaf(3)
    )
    arrays = {"batch": jnp.zeros(2), "seed": jnp.zeros(2)}
    return types.SimpleNamespace(target=target, jitted=lambda *x: x, tuned=tuned, micro_batches=1, **arrays)


@pytest.mark.parametrize("tuned, others, base", [(None, 24, {}), ("lora", 12, {"base": 12})])
def test_temporary_memory_is_what_the_trace_holds_beside_its_arguments(monkeypatch, tuned, others, base):
    """A mesh of 2 x 4 cuts it, as it cuts the batch, but no gradients; the base of a tuned run is a part of its own."""
    program = a_program(tuned)
    step = traced.Step(MESH, program, 0)
    monkeypatch.setattr(traced.jax, "make_jaxpr", lambda function: lambda *arguments: types.SimpleNamespace(jaxpr=None))
    held = {id(program.target.params): 40}
    monkeypatch.setattr(traced.peak_memory, "peak", lambda trace: 1000)
    monkeypatch.setattr(traced.peak_memory, "held", lambda arrays: held.get(id(arrays), 200))
    parts = {"parameters": 40, "optimizer": 80, "average": 120, "others": others, **base, "gradients": 40, "trace": 95}
    assert traced._memory(step) == parts
    program.micro_batches = 2
    assert traced._memory(step) == parts | {"gradients": 80, "trace": 90}
    monkeypatch.setattr(traced.peak_memory, "held", lambda arrays: held.get(id(arrays), 2000))
    assert traced._memory(step)["trace"] == 0


def test_seconds_of_a_traced_step():
    """The state is read and written once, a base read three times, temporary arrays written and read."""
    card = Machine("gpu", "card", 100.0, 1000.0, 10.0, 5.0, neighbours=64)
    parts = {"parameters": 40.0, "average": 60.0, "base": 50.0, "trace": 25.0}
    step = traced.Step(MESH, a_program("lora"), 3200)
    entry = traced._on_machine(card, step, parts, "bfloat16")
    spent = {"compute": 3200 / 16 / 100, "memory": (2 * 100 + 3 * 50 + 2 * 25) / 10, "network": 2 * 40 * 7 / 8 / 5}
    assert spent == {"compute": 2, "memory": 40, "network": 14}
    together = {"overlapped": 40, "in_turn": 56, "mfu_overlapped": 2 / 40, "mfu_in_turn": 2 / 56}
    assert entry["seconds"] == pytest.approx(spent | together)
    assert entry["fits"] and entry["change"] is None and entry["hbm_bytes"] == 1000 and entry["memory"] == parts
    wide = traced._on_machine(card, step, parts, "float32")["seconds"]
    assert wide["compute"] == 4 and wide["mfu_in_turn"] == pytest.approx(2 / 58)  # at half the rate, of the whole peak
    half = step._replace(in_fp8=1600)  # 1 second in bfloat16, and half a second in fp8
    assert traced._on_machine(card._replace(fp8=2.0), half, parts, "bfloat16")["seconds"]["compute"] == 1.5
    full = traced._on_machine(card._replace(memory=190.0), step, parts, "bfloat16")
    assert not full["fits"] and full["change"] == traced.CHANGES[True]
    untuned = traced.Step(MESH, a_program(None), 1)
    small = traced._on_machine(card._replace(memory=190.0), untuned, parts, "bfloat16")
    assert small["change"] == traced.CHANGES[False]
    alone = AbstractMesh((1, 1, 1, 2), MESH.axis_names, axis_types=(AxisType.Auto,) * 4)
    assert traced._on_machine(card, untuned._replace(mesh=alone), parts, "bfloat16")["seconds"]["network"] == 0


def test_a_device_has_its_part_of_the_batch(monkeypatch):
    """64 images on 2 x 4 devices are 8 on each, which two devices of the axis tensor share."""
    accumulated, program = [], a_program(None)
    program.micro_batches = 3
    monkeypatch.setattr(traced.programs, "mesh_of", lambda config, devices: MESH)
    monkeypatch.setattr(traced.programs, "build", lambda recipe, mesh: accumulated.append(recipe) or program)
    monkeypatch.setattr(traced, "_memory", lambda *arguments: {"trace": 0.0})
    monkeypatch.setattr(traced, "counted_flops", lambda *arguments, **options: 5.0)
    monkeypatch.setattr(traced, "config_hash", lambda config: "abc")
    config = ConfigDict(
        {"train": {"batch_size": 64, "accumulate": 0, "products": "dtype"}, "second_player": {"updates": 1}}
    )
    with_parts = lambda config: config.train.accumulate
    recipe = types.SimpleNamespace(config=config, unit=lambda: "clips", with_parts=with_parts)
    planned = traced.plan(recipe, traced.step_of(recipe, 16), ())
    assert accumulated == [1] and config.train.accumulate == 0  # the rule's number would be that of the CPU here
    assert planned == {
        "config_hash": "abc", "devices": 16, "mesh": {"data": 2, "fsdp": 4, "sequence": 1, "tensor": 2},
        "parameters": 10, "unit": "clips", "images": {"step": 64, "device": 8, "micro_batches": 3},
        "flops": {"step": 5.0}, "machines": {},
    }  # fmt: skip


@pytest.mark.parametrize("products, updates, expected", [
    ("", 1, (100, 0)), ("", 3, (40 + 60 // 3, 0)), ("fp8", 1, (100, 50)), ("fp8", 3, (60, 10 + 40 // 3)),
])  # fmt: skip
def test_a_second_player_that_rests_costs_its_share_of_the_steps(monkeypatch, products, updates, expected):
    """A step has 100 operations, 50 of them in fp8, and without the second player's update 40, 10 of them in fp8."""
    counts = {(False, max): 100, (False, min): 40, (True, max): 50, (True, min): 10}
    built = []
    program = types.SimpleNamespace(jitted="step", target=1, batch=2, seed=3)
    monkeypatch.setattr(traced.programs, "mesh_of", lambda config, devices: "mesh")
    monkeypatch.setattr(traced.programs, "build", lambda recipe, mesh: built.append(recipe) or program)

    def counted(function, *arguments, branch=max, in_fp8=False):
        assert (function, arguments) == ("step", (1, 2, 3))
        return counts[in_fp8, branch]

    monkeypatch.setattr(traced, "counted_flops", counted)
    config = ConfigDict({"train": {"accumulate": 0, "products": products}, "second_player": {"updates": updates}})
    step = traced.step_of(types.SimpleNamespace(config=config, with_parts=lambda config: config), 1)
    assert (step.operations, step.in_fp8) == expected
    assert built[0].train.accumulate == 1 and config.train.accumulate == 0
