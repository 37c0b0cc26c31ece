"""Kernels of programs that are written by hand: how many, how often, and bytes counted on paper."""

from diffusion.experiments.planning.compiled import hlo
from diffusion.experiments.planning.compiled.kernels import kernels

TEXT = """HloModule jit_f, is_scheduled=true

%row (p0: f32[6,100], p1: s32[], p2: f32[100]) -> f32[100] {
  %p0 = f32[6,100]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = f32[1,100]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,100}
  %flat = f32[100]{0} bitcast(%slice)
  %p2 = f32[100]{0} parameter(2)
  ROOT %sum = f32[100]{0} add(%flat, %p2)
}

%write (q0: bf16[6,100], q1: s32[], q2: f32[100]) -> bf16[6,100] {
  %q0 = bf16[6,100]{1,0} parameter(0)
  %q2 = f32[100]{0} parameter(2)
  %cast = bf16[100]{0} convert(%q2)
  %wide = bf16[1,100]{1,0} bitcast(%cast)
  %q1 = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  ROOT %update = bf16[6,100]{1,0} dynamic-update-slice(%q0, %wide, %q1, %zero.1)
}

%inner (r0: f32[100]) -> f32[100] {
  %r0 = f32[100]{0} parameter(0)
  ROOT %twice = f32[100]{0} add(%r0, %r0)
}

%nested (s0: f32[100]) -> (f32[100], bf16[100]) {
  %s0 = f32[100]{0} parameter(0)
  %deep = f32[100]{0} fusion(%s0), kind=kLoop, calls=%inner
  %short = bf16[100]{0} convert(%deep)
  ROOT %both = (f32[100]{0}, bf16[100]{0}) tuple(%deep, %short)
}

%body (p: (s32[], f32[6,100], bf16[6,100], f32[100])) -> (s32[], f32[6,100], bf16[6,100], f32[100]) {
  %p = (s32[], f32[6,100]{1,0}, bf16[6,100]{1,0}, f32[100]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %rows = f32[6,100]{1,0} get-tuple-element(%p), index=1
  %kept = bf16[6,100]{1,0} get-tuple-element(%p), index=2
  %x = f32[100]{0} get-tuple-element(%p), index=3
  %read = f32[100]{0} fusion(%rows, %i, %x), kind=kLoop, calls=%row
  %filled = bf16[6,100]{1,0} fusion(%kept, %i, %read), kind=kLoop, calls=%write
  ROOT %t = (s32[], f32[6,100]{1,0}, bf16[6,100]{1,0}, f32[100]{0}) tuple(%i, %rows, %filled, %read)
}

%condition (p: (s32[], f32[6,100], bf16[6,100], f32[100])) -> pred[] {
  %limit = s32[] constant(6)
  ROOT %less = pred[] compare(%limit, %limit), direction=LT
}

%wrapped (w: f32[100]) -> f32[100] {
  %w = f32[100]{0} parameter(0)
  ROOT %opposite = f32[100]{0} negate(%w)
}

ENTRY %main (a: (s32[], f32[6,100], bf16[6,100], f32[100]), b: f32[100]) -> f32[100] {
  %a = (s32[], f32[6,100]{1,0}, bf16[6,100]{1,0}, f32[100]{0}) parameter(0)
  %b = f32[100]{0} parameter(1)
  %loop = (s32[], f32[6,100]{1,0}, bf16[6,100]{1,0}, f32[100]{0}) while(%a), condition=%condition, body=%body
  %pair = (f32[100]{0}, bf16[100]{0}) fusion(%b), kind=kLoop, calls=%nested
  %called = f32[100]{0} call(%b), to_apply=%wrapped
  %near = (f32[100]{0:S(1)}, f32[100]{0}, u32[]{:S(2)}) copy-start(%b)
  %arrived = f32[100]{0:S(1)} copy-done(%near)
  ROOT %far = f32[100]{0} negate(%arrived)
}
"""


def test_every_launch_counts_with_its_bytes():
    by_name = {kernel.instruction.name: kernel for kernel in kernels(hlo.parse(TEXT))}
    assert {name: kernel.times for name, kernel in by_name.items()} == {
        "read": 6, "filled": 6, "pair": 1, "opposite": 1, "near": 1, "far": 1,
    }  # fmt: skip
    assert {name: kernel.bytes for name, kernel in by_name.items()} == {
        "read": 400 + 4 + 400 + 400,  # a row, its number, x; the sum
        "filled": 4 + 400 + 200,  # the number and x; a row in bfloat16: the other rows stay where they are
        "pair": 400 + 400 + 200,
        "opposite": 400 + 400,
        "near": 400,  # read from the device's memory, written beside the cores
        "far": 400,
    }


def test_a_fusion_holds_all_that_it_computes():
    [pair] = [kernel for kernel in kernels(hlo.parse(TEXT)) if kernel.instruction.name == "pair"]
    assert [instruction.name for instruction, _ in pair.inside] == ["s0", "r0", "twice", "short", "both"]
    assert {computation.name for _, computation in pair.inside} == {"nested", "inner"}
