"""Collectives counted in the text of compiled programs: one written by hand, and one that XLA compiled."""

import json
import os
import subprocess
import sys

import pytest

from diffusion.experiments.planning.compiled.communication import collective_bytes, collectives
from diffusion.experiments.planning.compiled.hlo import parse
from diffusion.experiments.planning.compiled.kernels import kernels

TEXT = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(f32[] %a, f32[] %b)
}

%all-reduce-scatter.1 (p: f32[64]) -> f32[8] {
  %sum = f32[64]{0} all-reduce(%p), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %part = f32[8]{0} dynamic-slice(%sum)
}

%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %whole = bf16[64,16]{1,0:T(8,128)(2,1)} all-gather(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %pair = (f32[16]{0}, bf16[4]{0}) all-reduce(%y, %z), replica_groups=mesh['a'=2,'b'=4] {'a'}, to_apply=%add
}

%condition (p: (s32[], f32[8,16])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(24)
  ROOT %less = pred[] compare(%i, %constant.1), direction=LT
}

ENTRY %main (p: f32[8,16]) -> f32[8,16] {
  %loop = (s32[], f32[8,16]) while(%t), condition=%condition, body=%body
  %scattered = f32[8]{0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %turned = f32[8,16]{1,0} all-to-all(%h), replica_groups=[4,2]<=[8]
  %part = f32[8]{0} reduce-scatter(%g), replica_groups=[1,8]<=[8], to_apply=%add
}
"""
STARTED = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(f32[] %a, f32[] %b)
}

ENTRY %main (a: bf16[100], x: f32[]) -> bf16[100] {
  %a = bf16[100]{0} parameter(0)
  %x = f32[] parameter(1)
  %turned = bf16[100]{0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}
  %gather = (bf16[100]{0}, bf16[200]{0}) all-gather-start(%a), replica_groups=[1,2]<=[2], dimensions={0}
  %free = bf16[100]{0} bitcast(%a)
  %gathered = bf16[200]{0} all-gather-done(%gather)
  %reduce = f32[] all-reduce-start(%x), replica_groups=[1,2]<=[2], to_apply=%add
  %kernel = bf16[100]{0} add(%a, %a)
  %reduced = f32[] all-reduce-done(%reduce)
  %alone = bf16[100]{0} all-reduce(%a), replica_groups={{0},{1}}, to_apply=%add
  %permute = (bf16[100]{0}, bf16[100]{0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1}}
  ROOT %permuted = bf16[100]{0} collective-permute-done(%permute)
}
"""
PROGRAM = """
import json, jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from diffusion.experiments.planning.compiled.communication import collective_bytes
mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
x = jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=NamedSharding(mesh, P("d")))
turn = lambda x, _: (x * jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P())).sum(), None)
step = jax.jit(lambda x: jax.lax.scan(turn, x, length=5)[0])
print(json.dumps(collective_bytes(step.lower(x).compile().as_text(), 8)))
"""


def test_by_hand():
    result = collective_bytes(TEXT, 8)
    assert result == {
        "all-gather": pytest.approx(24 * 3 / 4 * 64 * 16 * 2),
        "all-reduce": pytest.approx(24 * 2 * 1 / 2 * (16 * 4 + 4 * 2)),
        "reduce-scatter": pytest.approx(2 * 7 / 8 * 64 * 4),  # in a fusion, and by itself
        "all-to-all": pytest.approx(1 / 2 * 8 * 16 * 4),
    }


@pytest.mark.parametrize(("groups", "devices"), [
    ("[1,8]<=[8]", 8), ("[16,4]<=[4,4,4]T(2,1,0)", 4), ("{{0,16,32,48},{1,17,33,49}}", 4), ("{}", 64),
    ("mesh['a'=16,'b'=4] {'a'}", 16), ("mesh['a'=4,'b'=4,'c'=4] {'a','c'}", 16), ("mesh['a'=8,'b'=8] {'b':(2)4}", 4),
    # XLA for TPU, where the axis is not the first of the mesh
    ("mesh['a'=1,'b'=16,'c'=4], device_ids=([4,16]T(1,0)) {'b'}", 16),
])  # fmt: skip
def test_the_devices_of_a_group_are_read_in_each_way_that_xla_writes_them(groups, devices):
    text = TEXT.replace("replica_groups=[4,2]<=[8]", f"replica_groups={groups}, dimensions={{0}}")
    (turned,) = (each for each in collectives(kernels(parse(text)), 64) if each.kind == "all-to-all")
    assert turned.group == devices


def test_groups_that_are_written_in_another_way_are_refused():
    text = TEXT.replace("replica_groups=[4,2]<=[8]", "replica_groups=torus[4,2]")
    with pytest.raises(ValueError, match="torus"):
        collective_bytes(text, 8)


@pytest.mark.extended
def test_a_loop_that_xla_compiled_counts_each_turn():
    flags = "--xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    # 5 turns, in each either the whole [16, 8] gathered, or its sum reduced: XLA chooses.
    assert result in ({"all-gather": 5 * 7 / 8 * 512.0}, {"all-reduce": 5 * 2 * 7 / 8 * 4.0})


def test_what_starts_early_names_its_operands_and_contexts_beside_its_results():
    """A permute sends its 200 bytes, a gather half of 400, a sum of 4 bytes 4; only beside the sum a kernel runs."""
    sent = collectives(kernels(parse(STARTED)), 2)
    assert [(one.kind, one.bytes, one.overlapped) for one in sent] == [
        ("collective-permute", 200, False), ("all-gather", 200, False), ("all-reduce", 4, True),
        ("collective-permute", 200, False),
    ]  # fmt: skip


def test_the_end_of_another_collective_is_not_its_own():
    """The gather starts first and ends last; the kernel runs after the sum has ended."""
    start = "  %gather = (bf16[100]{0}, bf16[200]{0}) all-gather-start(%a), replica_groups=[1,2]<=[2], dimensions={0}\n"
    reduce = "  %reduce = f32[] all-reduce-start(%x), replica_groups=[1,2]<=[2], to_apply=%add\n"
    ends = ["  %reduced = f32[] all-reduce-done(%reduce)\n", "  %kernel = bf16[100]{0} add(%a, %a)\n"]
    last = "  %gathered = bf16[200]{0} all-gather-done(%gather)\n"
    head = STARTED[: STARTED.index("  %turned")]
    sent = collectives(kernels(parse("".join([head, start, reduce, *ends, last, "}\n"]))), 2)
    assert [(one.kind, one.overlapped) for one in sent] == [("all-gather", True), ("all-reduce", False)]
