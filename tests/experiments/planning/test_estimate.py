"""Bytes, operations and seconds of a small made-up run, by hand; the formulas of the model stand in as numbers."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from diffusion.experiments.planning import estimate
from diffusion.experiments.planning.machines import MACHINES, Machine, Passes
from diffusion.models.budget import activation_memory
from diffusion.models.budget.collectives import Collective
from diffusion.models.dit import DiT
from diffusion.training.state import TrainState

MESH = AbstractMesh((2, 4, 2, 4), ("data", "fsdp", "sequence", "tensor"), axis_types=(AxisType.Auto,) * 4)
MODEL = DiT(patch=2, width=16, depth=3, heads=2, num_classes=0, dtype="bfloat16", attention="xla")
SHAPE = (8, 8, 3)  # 16 tokens
PARTS = {  # of the made-up run: 576 bytes of parameters, 320 of the optimizer, 32 of the average, 48 of others
    "parameters": 512 + 64, "optimizer": 64 + 256, "average": 32, "others": 16 + 8 + 24,
}  # fmt: skip


def leaf(*shape, dtype=jnp.float32, split=False):
    spec = PartitionSpec("fsdp") if split else PartitionSpec()
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(MESH, spec))


def run(model=MODEL, params=None, accumulate=2):
    target = TrainState(
        step=None,
        params=params or {"a": leaf(64, 8, split=True), "b": leaf(16)},
        opt_state=[leaf(16), leaf(64, 8, dtype=jnp.bfloat16, split=True)],
        ema=leaf(8),
        density=leaf(1000),
        failed_at=None,
        frozen=leaf(4),
        second_players=leaf(2),
        unsaved=leaf(6),
    )
    return estimate.Work(model, SHAPE, target, MESH, 32, accumulate)


def test_each_part_of_the_memory():
    """32 images on 2 x 4 devices in two micro-batches: 2 at once. A quarter of the parameters is on each device."""
    layer = activation_memory.layer_bytes(MODEL, SHAPE, "xla", "none", sequence=2, tensor=4)
    kept = activation_memory.kept_bytes(MODEL, SHAPE, "xla", sequence=2, tensor=4)
    assert estimate.memory_by_part(run(), "gpu") == PARTS | {
        "activations": 2 * kept,
        "gradients": 2 * 576,
        "copies": 576 // 2,
        "layer": 2 * (4 * 576 / 2 / 3),  # a third of all, in bfloat16, with its gradients
        "working": 2 * layer,
    }


def test_memory_of_whole_parameters_in_float32_and_of_one_batch():
    model = MODEL.clone(dtype="float32", remat="full")
    parts = estimate.memory_by_part(run(model, {"b": leaf(16)}, accumulate=1), "gpu")
    assert (parts["parameters"], parts["gradients"], parts["copies"], parts["layer"]) == (
        64,
        64,
        0,
        pytest.approx(64 / 3),
    )
    assert parts["activations"] == 4 * activation_memory.kept_bytes(model, SHAPE, "xla", 2, 4)
    assert parts["working"] == 4 * activation_memory.layer_bytes(model, SHAPE, "xla", "none", 2, 4)


@pytest.mark.parametrize("name", ["auto", "auto_jvp"])
def test_attention_is_chosen_by_a_head_and_the_platform(monkeypatch, name):
    seen = []
    monkeypatch.setattr(estimate.attention, "choice", lambda x: seen.append((x, jax.default_backend())) or "fused")
    assert estimate.attention_name(MODEL.clone(attention=name), SHAPE, "tpu") == "fused"
    ((x, platform),) = seen
    assert x.shape == (1, 16, 2, 8) and x.dtype == jnp.bfloat16 and platform == "tpu"
    assert estimate.attention_name(MODEL.clone(attention="cudnn_jvp"), SHAPE, "gpu") == "cudnn"


def collective(kind, axes, size, overlapped=False):
    return Collective(kind, axes, size, overlapped)


def test_arrays_that_a_step_passes_over(monkeypatch):
    """4 images of 16 tokens of 16 features on a device, halved by the axis sequence; kernels and heads quartered."""
    sent = [collective("all-to-all", ("sequence",), 100.0), collective("collective-permute", ("fsdp",), 7.0)]
    monkeypatch.setattr(estimate, "collectives", lambda work, machine: sent)
    machine = MACHINES["v5p"]
    tokens = 2 * 3 * 4 * 16 * 16 / 2
    kernels = 4 * 16 * 16 + 2 * 16 * 64
    expected = Passes(
        state=sum(PARTS.values()),
        weights=2 * 2 * 3 * kernels / 4,  # twice, in bfloat16, of three layers
        tokens=tokens,
        scores=4 * 3 * 4 * 2 * 16 * 16 / (2 * 4),
        exchanged=100.0,
        windows=tokens,
    )
    assert estimate.passed(run(), machine) == expected
    sent[:] = [collective("all-to-all", ("fsdp",), 9.0), collective("all-gather", ("fsdp",), 7.0)]
    swiglu = estimate.passed(run(MODEL.clone(mlp="swiglu", attention="cudnn")), machine)
    assert swiglu.weights == 2 * 2 * 3 * (4 * 16 * 16 + 3 * 16 * 42) / 4
    assert swiglu.scores == swiglu.exchanged == swiglu.windows == 0


CARD = Machine("gpu", "card", 100.0, 1e9, 10.0, 5.0, passes=Passes(1.0, 2.0, 3.0, 4.0, 5.0, 6.0), neighbours=64)


@pytest.fixture
def numbers(monkeypatch):
    """1000 operations an image and 200 again; arrays of 1, 10 ... bytes; 40 bytes sent early, and 10 alone."""
    monkeypatch.setattr(estimate, "train_flops", lambda model, shape: 1000)
    monkeypatch.setattr(estimate, "recomputed_flops", lambda model, shape: 200)
    monkeypatch.setattr(estimate, "passed", lambda work, machine: Passes(1.0, 10.0, 100.0, 0.1, 0.0, 0.01))
    sent = [collective("a", ("data",), 30.0, True), collective("b", ("data",), 10.0, True)]
    sent += [collective("c", ("data",), 10.0)]
    monkeypatch.setattr(estimate, "collectives", lambda work, machine: sent)
    return sent


def test_operations_are_of_all_images(numbers):
    assert estimate.operations(run()) == {"model": 32 * 1000, "recomputed": 32 * 200}


def test_seconds_of_a_step(numbers):
    """64 devices of 100 operations, 10 bytes of memory and 5 of links a second."""
    compute = 32 * 1200 / 64 / 100
    memory = (1 + 2 * 10 + 3 * 100 + 4 * 0.1 + 6 * 0.01) / 10
    step = {"compute": compute, "memory": memory, "network": 10.0, "exposed": 2.0, "overlapped": compute + memory + 2,
            "in_turn": compute + memory + 10}  # fmt: skip
    ideal = 32 * 1000 / 64 / 100
    share = {"mfu_overlapped": ideal / step["overlapped"], "mfu_in_turn": ideal / step["in_turn"]}
    assert estimate.seconds(run(), CARD) == pytest.approx(step | share)
    wide = estimate.seconds(run(MODEL.clone(dtype="float32")), CARD)  # TensorFloat-32 on a GPU, of bfloat16's peak
    assert wide["compute"] == 2 * compute and wide["mfu_in_turn"] == pytest.approx(ideal / wide["in_turn"])
    tpu = estimate.seconds(run(MODEL.clone(dtype="float32")), CARD._replace(platform="tpu"))
    assert tpu["compute"] == compute
    numbers[0] = collective("a", ("data",), 1000.0, True)  # longer than all kernels
    assert estimate.seconds(run(), CARD)["overlapped"] == pytest.approx(1010 / 5 + 2)


def test_a_tenth_of_the_memory_stays_free():
    parts = {"a": 60.0, "b": 30.0}
    assert estimate.fits(parts, CARD._replace(memory=100.0))
    assert not estimate.fits(parts, CARD._replace(memory=99.9))
