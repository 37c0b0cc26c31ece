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


PARTS = """HloModule jit_g, is_scheduled=true

%mix (m0: f32[6,100], m1: f32[6,100], m2: s32[]) -> f32[6,100] {
  %m0 = f32[6,100]{1,0} parameter(0)
  %m1 = f32[6,100]{1,0} parameter(1)
  %m2 = s32[] parameter(2)
  %one = f32[1,100]{1,0} dynamic-slice(%m1, %m2, %m2), dynamic_slice_sizes={1,100}
  %all = f32[6,100]{1,0} broadcast(%one), dimensions={0,1}
  ROOT %mixed = f32[6,100]{1,0} add(%m0, %all)
}

%cut (c0: f32[6,100], c1: s32[]) -> f32[1,100] {
  %c0 = f32[6,100]{1,0} parameter(0)
  %c1 = s32[] parameter(1)
  ROOT %part = f32[1,100]{1,0} dynamic-slice(%c0, %c1, %c1), dynamic_slice_sizes={1,100}
}

%around (d0: f32[6,100], d1: s32[]) -> f32[1,100] {
  %d0 = f32[6,100]{1,0} parameter(0)
  %d1 = s32[] parameter(1)
  ROOT %taken = f32[1,100]{1,0} fusion(%d0, %d1), kind=kLoop, calls=%cut
}

%put (e0: f32[6,100], e1: f32[1,100], e2: s32[]) -> f32[600] {
  %e0 = f32[6,100]{1,0} parameter(0)
  %e1 = f32[1,100]{1,0} parameter(1)
  %e2 = s32[] parameter(2)
  %changed = f32[6,100]{1,0} dynamic-update-slice(%e0, %e1, %e2, %e2)
  ROOT %flat = f32[600]{0} bitcast(%changed)
}

%inner (i0: (s32[], f32[6,100])) -> (s32[], f32[6,100]) {
  %i0 = (s32[], f32[6,100]{1,0}) parameter(0)
  %i1 = s32[] get-tuple-element(%i0), index=0
  %i2 = f32[6,100]{1,0} get-tuple-element(%i0), index=1
  %opposite = f32[6,100]{1,0} negate(%i2)
  ROOT %i3 = (s32[], f32[6,100]{1,0}) tuple(%i1, %opposite)
}

%four (f: (s32[], f32[6,100])) -> pred[] {
  %limit = s32[] constant(4)
  ROOT %less = pred[] compare(%limit, %limit), direction=LT
}

%outer (o0: (s32[], f32[6,100])) -> (s32[], f32[6,100]) {
  %o0 = (s32[], f32[6,100]{1,0}) parameter(0)
  ROOT %loop.1 = (s32[], f32[6,100]{1,0}) while(%o0), condition=%four, body=%inner
}

%three (t: (s32[], f32[6,100])) -> pred[] {
  %limit.1 = s32[] constant(3)
  ROOT %less.1 = pred[] compare(%limit.1, %limit.1), direction=LT
}

ENTRY %main (a: f32[6,100], n: s32[], r: f32[1,100], p: (s32[], f32[6,100])) -> f32[6,100] {
  %a = f32[6,100]{1,0} parameter(0)
  %n = s32[] parameter(1)
  %r = f32[1,100]{1,0} parameter(2)
  %p = (s32[], f32[6,100]{1,0}) parameter(3)
  %twice = f32[6,100]{1,0} fusion(%a, %a, %n), kind=kLoop, calls=%mix
  %row = f32[1,100]{1,0} fusion(%a, %n), kind=kLoop, calls=%around
  %stored = f32[600]{0} fusion(%a, %r, %n), kind=kLoop, calls=%put
  %loop = (s32[], f32[6,100]{1,0}) while(%p), condition=%three, body=%outer
  ROOT %spread = f32[6,100]{1,0} scatter(%a, %n, %r), to_apply=%cut
}
"""


def test_parts_of_operands_count_once_and_loops_within_loops_multiply():
    by_name = {kernel.instruction.name: kernel for kernel in kernels(hlo.parse(PARTS))}
    assert {name: (kernel.times, kernel.bytes) for name, kernel in by_name.items()} == {
        "twice": (1, 2400 + 4 + 2400),  # read whole, of which a row is a part
        "row": (1, 400 + 4 + 400),
        "stored": (1, 400 + 4 + 400),  # a row is written into its place
        "opposite": (3 * 4, 2400 + 2400),
        "spread": (1, 4 + 400 + 400),  # the index and the row; the row
    }
