"""Bytes of collectives against answers found by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from diffusion.models.budget.collectives import collectives
from diffusion.models.dit import DiT

SHAPE = (32, 32, 4)  # 256 tokens
WIDTH, DEPTH = 128, 2


def communication(
    params, average=None, rows=4, accumulate=1, model=None, name="kernel", shape=(128, 512), torus=0, **axes
):
    """{(kind, axes): bytes} of a state with one leaf [128, 512], split as the arguments say, on these axes."""
    mesh = AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    leaf = lambda spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
    model = {"dtype": "bfloat16", **(model or {})}
    network = DiT(patch=2, width=WIDTH, depth=DEPTH, heads=8, num_classes=0, **model)
    found = collectives({name: leaf(params)}, {name: leaf(params if average is None else average)}, mesh, network,
                        SHAPE, rows, accumulate, torus)  # fmt: skip
    return {(kind, over): size for kind, over, size, _ in found}


WHOLE = PartitionSpec()
SPLIT = PartitionSpec(None, "fsdp")
SPLIT_FIRST = PartitionSpec("fsdp", None, None)
MODULATION = {"name": "blocks/modulation/dense/kernel", "shape": (128, 6, 128)}
BYTES = 128 * 512 * 2  # of the leaf in bfloat16


def test_one_device_sends_nothing():
    assert communication(WHOLE, data=1, fsdp=1, sequence=1, tensor=1) == {}


def test_data_parallel_sums_gradients():
    assert communication(WHOLE, data=8) == {("all-reduce", ("data",)): pytest.approx(2 * 7 / 8 * BYTES)}
    # in float32 twice as much, and as often as there are micro-batches
    assert communication(WHOLE, data=8, accumulate=3, model={"dtype": "float32"}) == {
        ("all-reduce", ("data",)): pytest.approx(6 * 2 * 7 / 8 * BYTES)
    }


@pytest.mark.parametrize("remat", ["none", "full"])
def test_fsdp_gathers_twice_and_scatters_once(remat):
    assert communication(SPLIT, data=1, fsdp=8, model={"remat": remat}) == {
        ("all-gather", ("fsdp",)): pytest.approx(2 * 7 / 8 * BYTES),
        ("reduce-scatter", ("fsdp",)): pytest.approx(7 / 8 * BYTES),
    }


def test_micro_batches_gather_and_scatter_each():
    once, thrice = (communication(SPLIT, data=2, fsdp=8, accumulate=accumulate) for accumulate in (1, 3))
    assert thrice == {kind: pytest.approx(3 * size) for kind, size in once.items()} and len(once) == 3


def test_fsdp_leaves_its_part_to_data_and_sequence():
    found = communication(SPLIT, data=2, fsdp=8)
    assert found["all-reduce", ("data",)] == pytest.approx(2 * 1 / 2 * BYTES / 8)
    found = communication(SPLIT, data=2, fsdp=8, sequence=2)
    assert found["all-reduce", ("data", "sequence")] == pytest.approx(2 * 3 / 4 * BYTES / 8)


def test_a_leaf_that_fsdp_leaves_whole_is_summed_over_it():
    assert communication(WHOLE, data=2, fsdp=4) == {("all-reduce", ("data", "fsdp")): pytest.approx(2 * 7 / 8 * BYTES)}
    found = communication(WHOLE, data=2, fsdp=2, sequence=2)
    assert found["all-reduce", ("data", "fsdp", "sequence")] == pytest.approx(2 * 7 / 8 * BYTES)


def test_a_split_optimizer_scatters_gradients_and_gathers_what_it_made():
    assert communication(WHOLE, average=SPLIT, data=1, fsdp=8) == {
        ("all-gather", ("fsdp",)): pytest.approx(7 / 8 * 2 * BYTES),  # in float32
        ("reduce-scatter", ("fsdp",)): pytest.approx(7 / 8 * BYTES),
    }


@pytest.mark.parametrize(("remat", "passes"), [("none", 2), ("full", 3)])
def test_tensor_sums_tokens_and_sequence_turns_them(remat, passes):
    tokens = 4 * 256 * WIDTH * 2  # of the rows of a device, in bfloat16
    split = PartitionSpec(None, "tensor")
    found = communication(split, tensor=4, model={"remat": remat})
    assert found == {("all-reduce", ("tensor",)): pytest.approx(DEPTH * passes * 2 * 2 * 3 / 4 * tokens)}
    found = communication(WHOLE, sequence=4, model={"remat": remat})
    # q, k and v go to the heads and the output comes back: four arrays, a quarter of each on each device
    assert found["all-to-all", ("sequence",)] == pytest.approx(DEPTH * passes * 4 * 3 / 4 * tokens / 4)
    found = communication(WHOLE, sequence=2, tensor=2, model={"remat": remat})  # half of the heads on each device
    assert found["all-to-all", ("sequence",)] == pytest.approx(DEPTH * passes * 4 * 1 / 2 * tokens / 2 / 2)


def test_tensor_leaves_a_part_of_the_gradients():
    found = communication(PartitionSpec("tensor", "fsdp"), data=2, fsdp=4, tensor=2)
    assert found["reduce-scatter", ("fsdp",)] == pytest.approx(3 / 4 * BYTES / 2)
    assert found["all-reduce", ("data",)] == pytest.approx(2 * 1 / 2 * BYTES / 8)


def test_keys_and_values_travel_where_heads_do_not_divide():
    """16 devices share 8 heads: 15 turns forward and 15 backward, and 16 of the gradients in float32."""
    found = communication(WHOLE, sequence=16)
    block = 4 * 256 / 16 * WIDTH * 2  # the keys of a device, in bfloat16; values are as many
    assert found["collective-permute", ("sequence",)] == pytest.approx(DEPTH * 2 * block * (15 + 15 + 2 * 16))
    assert ("all-to-all", ("sequence",)) not in found
    gathered = communication(WHOLE, sequence=16, model={"attention": "xla"})  # which has no ring
    assert gathered["all-gather", ("sequence",)] == pytest.approx(DEPTH * 2 * 2 * 15 * block)
    assert gathered["reduce-scatter", ("sequence",)] == pytest.approx(DEPTH * 2 * 15 * block)


def test_a_modulation_of_few_examples_sends_its_outputs():
    """64 examples of a group are fewer than the kernel's 128 inputs: outputs [64, 512] forward, gradients backward."""
    found = communication(SPLIT_FIRST, data=1, fsdp=8, rows=8, **MODULATION)
    outputs = 64 * 6 * 128 * 2
    assert found == {
        ("reduce-scatter", ("fsdp",)): pytest.approx(7 / 8 * outputs),
        ("all-gather", ("fsdp",)): pytest.approx(7 / 8 * outputs),
    }
    again = communication(SPLIT_FIRST, data=1, fsdp=8, rows=8, model={"remat": "full"}, **MODULATION)
    assert again["reduce-scatter", ("fsdp",)] == pytest.approx(2 * 7 / 8 * outputs)
    many = communication(SPLIT_FIRST, data=1, fsdp=8, rows=16, **MODULATION)
    assert many["all-gather", ("fsdp",)] == pytest.approx(2 * 7 / 8 * 128 * 6 * 128 * 2)
    few = communication(SPLIT_FIRST, data=8, fsdp=4, rows=4, torus=3, **MODULATION)
    assert few["all-reduce", ("fsdp",)] == pytest.approx(2 * 3 / 4 * 16 * 6 * 128 * 2)  # less than 8 rows a device
    assert few["all-reduce", ("data",)] == pytest.approx(2 * 7 / 8 * 128 * 6 * 128 * 2 / 4)
    for accumulate, kind in ((2, "reduce-scatter"), (4, "all-reduce")):  # 8 rows a device in a micro-batch, and 4
        parts = communication(SPLIT_FIRST, data=8, fsdp=4, rows=16, accumulate=accumulate, torus=3, **MODULATION)
        factor = 1 if kind == "reduce-scatter" else 2
        assert parts[kind, ("fsdp",)] == pytest.approx(factor * 3 / 4 * 64 * 6 * 128 * 2)


def test_over_all_of_a_torus_gathers_and_scatters_are_all_reduces():
    found = communication(SPLIT, data=1, fsdp=8, torus=3)
    assert found == {("all-reduce", ("fsdp",)): pytest.approx(3 * 2 * 7 / 8 * BYTES)}


def test_over_a_part_of_a_torus_gradients_take_whole_tiles_and_attentions_are_summed():
    """512 / 16 = 32 fills two tiles of 16; 384 / 16 = 24 takes as much as 32."""
    assert communication(SPLIT, data=4, fsdp=16, torus=3)["reduce-scatter", ("fsdp",)] == pytest.approx(15 / 16 * BYTES)
    narrow = communication(SPLIT, data=4, fsdp=16, torus=3, shape=(128, 384))
    assert narrow["reduce-scatter", ("fsdp",)] == pytest.approx(15 / 16 * BYTES)
    attention = {"name": "blocks/attention/out/kernel", "torus": 3}
    assert ("reduce-scatter", ("fsdp",)) in communication(SPLIT, data=4, fsdp=16, **attention)
    for axes, shape in (({"data": 4, "fsdp": 16}, (128, 384)), ({"data": 16, "fsdp": 4}, (128, 512))):
        found = communication(SPLIT, **axes, shape=shape, **attention)
        n = axes["fsdp"]
        assert found["all-reduce", ("fsdp",)] == pytest.approx(2 * (n - 1) / n * 2 * 128 * shape[1])
        assert ("reduce-scatter", ("fsdp",)) not in found


def test_layers_that_a_torus_computes_again_gather_queries_three_times():
    once = communication(SPLIT, data=4, fsdp=16, torus=3, name="attention/qkv/kernel")
    again = communication(SPLIT, data=4, fsdp=16, torus=3, name="attention/qkv/kernel", model={"remat": "full"})
    assert once["all-gather", ("fsdp",)] == pytest.approx(2 * 15 / 16 * BYTES)
    assert again["all-gather", ("fsdp",)] == pytest.approx(3 * 15 / 16 * BYTES)


def test_beside_tensor_a_torus_takes_kernels_in_turns():
    found = communication(PartitionSpec("tensor", "fsdp"), fsdp=16, tensor=4, torus=3)
    part = 15 / 16 * BYTES / 4
    assert found["all-gather", ("fsdp",)] == pytest.approx(part)
    assert found["collective-permute", ("fsdp",)] == pytest.approx(2 * part)


def test_policies_keep_no_array_that_changed_its_side():
    kept, again = (communication(WHOLE, sequence=4, model={"remat": remat}) for remat in ("none", "elementwise"))
    side = ("all-to-all", ("sequence",))
    assert again[side] == pytest.approx(3 / 2 * kept[side])
