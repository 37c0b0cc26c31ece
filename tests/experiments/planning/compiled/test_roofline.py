"""The roofline of kernels whose times are worked out by hand."""

import types

import pytest

from diffusion.experiments.planning.compiled import findings, hlo, roofline as rooflines
from diffusion.experiments.planning.compiled.kernels import kernels
from diffusion.experiments.planning.compiled.roofline import links, passes, roofline
from diffusion.experiments.planning.compiled.tensor_products import Product
from diffusion.experiments.planning.machines import MACHINES, Machine

# A product of 2 * 100 * 100 * 100 = 2e6 operations on 3 * 20 kB, a sum that moves 60 kB, and two all-reduces of 20 kB
# over two devices, each of which sends 20 kB: one beside the sum, one alone.
TEXT = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(f32[] %a, f32[] %b)
}

ENTRY %main (a: bf16[100,100], b: bf16[100,100]) -> bf16[100,100] {
  %a = bf16[100,100]{1,0} parameter(0)
  %b = bf16[100,100]{1,0} parameter(1)
  %dot = bf16[100,100]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %start = bf16[100,100]{1,0} all-reduce-start(%dot), replica_groups=[1,2]<=[2], to_apply=%add
  %sum = bf16[100,100]{1,0} add(%a, %b)
  %done = bf16[100,100]{1,0} all-reduce-done(%start)
  ROOT %alone = bf16[100,100]{1,0} all-reduce(%done), replica_groups=[1,2]<=[2], to_apply=%add
}
"""
# 1 TFLOP/s, 100 GB/s, links of 10 GB/s: the product takes 2 us (0.6 us of bytes), the sum 0.6, each all-reduce 2 and
# 0.4 for its bytes.
MACHINE = Machine("gpu", "made up", 1e12, 1e9, 1e11, 1e10, neighbours=8)


def test_kernels_run_one_after_the_other_and_collectives_beside_them_where_they_start_early():
    module = hlo.parse(TEXT)
    run = kernels(module)
    collectives = findings.communication(module, run, 2, __file__)
    assert sorted((each["overlapped"], each["bytes"], each["types"]) for each in collectives) == [
        (False, 20_000, ("bf16",)), (True, 20_000, ("bf16",)),
    ]  # fmt: skip
    bound = roofline(run, collectives, MACHINE, 2, MACHINE.flops)
    assert bound.compute == pytest.approx(2e-6)
    assert bound.memory == pytest.approx((60e3 + 40e3 + 60e3 + 40e3) / 1e11)
    assert bound.network == pytest.approx(4e-6)
    assert bound.memory_bound == pytest.approx(1.4e-6)
    assert bound.seconds == pytest.approx(2e-6 + 1.4e-6 + 2e-6)


def test_at_half_the_rate_the_product_takes_twice_as_long():
    run = kernels(hlo.parse(TEXT))
    assert roofline(run, [], MACHINE, 2, MACHINE.flops / 2).seconds == pytest.approx(4e-6 + 1.4e-6)


def test_the_rate_of_other_types():
    # Data sheet of the H100: TensorFloat-32 494.7 TFLOP/s, float32 67, float8 1,979, beside 989.4 in bfloat16.
    of = lambda kind, precision: passes(Product(1, (kind, kind), precision), "gpu")
    peak = MACHINES["h100"].flops
    assert peak / of("f32", "default") == pytest.approx(494.7e12)
    assert peak / of("f32", "highest") == pytest.approx(67e12, rel=0.01)
    assert peak / of("f8e4m3fn", "default") == pytest.approx(1979e12, rel=0.001)
    assert of("bf16", "default") == 1
    assert passes(Product(1, ("f32", "f32"), "highest"), "tpu") == 6
    assert passes(Product(1, ("f32", "f32"), "high"), "tpu") == 3 and of("f32", "high") == 2
    assert passes(Product(1, ("f8e4m3fn", "bf16"), "default"), "gpu") == 1  # the slower of the two
    assert passes(Product(1, ("s8", "u8"), "default"), "gpu") == 0.5


def test_all_runs_of_a_kernel_count_and_collectives_may_take_longer_than_kernels(monkeypatch):
    """Three runs of two products of 5e5 operations and 30 kB; 60 kB are sent beside them, and 20 kB alone."""
    monkeypatch.setattr(rooflines, "products_of", lambda kernel: [Product(5e5, ("bf16", "bf16"), "default")] * 2)
    kernel = types.SimpleNamespace(times=3, bytes=30e3)
    sent = [{"overlapped": True, "bytes": 60e3, "group": 2}, {"overlapped": False, "bytes": 20e3, "group": 2}]
    bound = roofline([kernel], sent, MACHINE, 2, MACHINE.flops)
    assert bound == pytest.approx((3e-6, 0.9e-6, 8e-6, 6e-6 + 2e-6, 0))


def test_a_kernel_whose_bytes_take_longer_counts_with_all_of_its_time(monkeypatch):
    """Its product of 1e6 operations takes 1 us, and its 300 kB take 3 us."""
    monkeypatch.setattr(rooflines, "products_of", lambda kernel: [Product(1e6, ("bf16", "bf16"), "default")])
    bound = roofline([types.SimpleNamespace(times=1, bytes=300e3)], [], MACHINE, 2, MACHINE.flops)
    assert bound == pytest.approx((1e-6, 3e-6, 0, 3e-6, 3e-6))


def test_a_group_has_its_part_of_a_torus():
    """A quarter of 64 devices is two of its three dimensions, a sixteenth one."""
    assert links(MACHINES["v5p"], 64, 16) == 400e9 and links(MACHINES["v5p"], 64, 4) == 200e9
