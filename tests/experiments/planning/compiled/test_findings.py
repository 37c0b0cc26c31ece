"""What costs time in programs that are written by hand, and where it comes from."""
# ruff: noqa: E501 (XLA writes long lines)

import pathlib

import pytest

from diffusion.experiments.planning.compiled import analysis, findings, hlo
from diffusion.experiments.planning.compiled.kernels import kernels
from diffusion.experiments.planning.machines import MACHINES

ROOT = pathlib.Path("/ours")
TEXT = """HloModule m

FileNames
1 "/ours/model.py"
2 "/ours/diffusion/models/layers/attention.py"
3 "/theirs/flax.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=11}
2 {file_name_id=2 function_name_id=1 line=22}
3 {file_name_id=3 function_name_id=1 line=33}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=3 parent_frame_id=2}
3 {file_location_id=2 parent_frame_id=2}


%turn (t0: bf16[1000,1000]) -> bf16[1000,1000] {
  %t0 = bf16[1000,1000]{1,0} parameter(0)
  ROOT %turned = bf16[1000,1000]{1,0} transpose(%t0), dimensions={1,0}
}

%turn_and_add (u0: bf16[1000,1000]) -> bf16[1000,1000] {
  %u0 = bf16[1000,1000]{1,0} parameter(0)
  %turned.1 = bf16[1000,1000]{1,0} transpose(%u0), dimensions={1,0}
  ROOT %sum = bf16[1000,1000]{1,0} add(%turned.1, %u0)
}

%zeros () -> f32[4,1000,1000] {
  %zero = f32[] constant(0)
  ROOT %full = f32[4,1000,1000]{2,1,0} broadcast(%zero), dimensions={}
}

%row (r0: f32[4,1000,1000], r1: s32[], r2: f32[1000,1000]) -> f32[4,1000,1000] {
  %r0 = f32[4,1000,1000]{2,1,0} parameter(0)
  %r1 = s32[] parameter(1)
  %r2 = f32[1000,1000]{1,0} parameter(2)
  %wide = f32[1,1000,1000]{2,1,0} bitcast(%r2)
  ROOT %update = f32[4,1000,1000]{2,1,0} dynamic-update-slice(%r0, %wide, %r1, %r1, %r1)
}

%body (p: (s32[], f32[4,1000,1000], f32[1000,1000])) -> (s32[], f32[4,1000,1000], f32[1000,1000]) {
  %p = (s32[], f32[4,1000,1000]{2,1,0}, f32[1000,1000]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %kept = f32[4,1000,1000]{2,1,0} get-tuple-element(%p), index=1
  %x = f32[1000,1000]{1,0} get-tuple-element(%p), index=2
  %y = f32[1000,1000]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(f)/while/body/closed_call/dot" stack_frame_id=2}
  %again.remat2 = f32[1000,1000]{1,0} negate(%y), metadata={op_name="jit(f)/negate" stack_frame_id=1}
  %filled = f32[4,1000,1000]{2,1,0} fusion(%kept, %i, %y), kind=kLoop, calls=%row, metadata={op_name="jit(f)/dynamic_update_slice" stack_frame_id=3}
  ROOT %t = (s32[], f32[4,1000,1000]{2,1,0}, f32[1000,1000]{1,0}) tuple(%i, %filled, %again.remat2)
}

%condition (p: (s32[], f32[4,1000,1000], f32[1000,1000])) -> pred[] {
  %limit = s32[] constant(4)
  ROOT %less = pred[] compare(%limit, %limit), direction=LT
}

ENTRY %main (a: bf16[1000,1000], s: (s32[], f32[4,1000,1000], f32[1000,1000])) -> bf16[1000,1000] {
  %a = bf16[1000,1000]{1,0} parameter(0)
  %s = (s32[], f32[4,1000,1000]{2,1,0}, f32[1000,1000]{1,0}) parameter(1)
  %turned.2 = bf16[1000,1000]{1,0} fusion(%a), kind=kInput, calls=%turn, metadata={op_name="jit(f)/turn" stack_frame_id=1}
  %both = bf16[1000,1000]{1,0} fusion(%a), kind=kInput, calls=%turn_and_add, metadata={op_name="jit(f)/both" stack_frame_id=1}
  %small = bf16[10,10]{1,0} copy(%a)
  %filled.1 = f32[4,1000,1000]{2,1,0} fusion(), kind=kLoop, calls=%zeros, metadata={op_name="jit(f)/zeros" stack_frame_id=1}
  %loop = (s32[], f32[4,1000,1000]{2,1,0}, f32[1000,1000]{1,0}) while(%s), condition=%condition, body=%body
  %scores = bf16[1000,1000]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={1}, metadata={op_name="jit(f)/attention/dot" stack_frame_id=3}
  %flash = bf16[1000,1000]{1,0} custom-call(%a, %a), custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/splash_mha_fwd" stack_frame_id=3}
  %again = bf16[1000,1000]{1,0} negate(%a), metadata={op_name="jit(f)/checkpoint/rematted_computation/negate" stack_frame_id=1}
  ROOT %back = bf16[1000,1000]{1,0} copy(%scores), metadata={op_name="jit(f)/copy" stack_frame_id=1}
}
"""
MODULE = hlo.parse(TEXT)
RUN = kernels(MODULE)


def test_a_place_is_in_our_files_with_its_callers():
    places = {
        kernel.instruction.name: findings.place(MODULE, kernel.instruction, ROOT)
        for kernel in RUN
        if kernel.instruction.operation == "dot"
    }
    assert places["y"] == (("model.py:11",), "dot")  # its innermost line is in another library
    assert places["scores"] == (("diffusion/models/layers/attention.py:22", "model.py:11"), "attention/dot")


def test_what_only_moves_values_is_listed_from_a_megabyte_on():
    listed = {(each["kind"], each["type"]): each for each in findings.copies(MODULE, RUN, ROOT)}
    assert {key: (each["times"], each["bytes"], each["lines"]) for key, each in listed.items()} == {
        ("transpose", "bf16[1000,1000]"): (1, 4e6, ("model.py:11",)),
        ("transpose, fused", "bf16[1000,1000]"): (1, 4e6, ("model.py:11",)),
        ("copy", "bf16[1000,1000]"): (1, 4e6, ("model.py:11",)),
        ("fill", "f32[4,1000,1000]"): (1, 16e6, ("model.py:11",)),
        # A row is read and written at each of four turns; its line is that of what makes it.
        ("row into a stack", "f32[4,1000,1000]"): (4, 4 * (4e6 + 4 + 4e6), ("model.py:11",)),
    }


def test_products_that_are_not_in_bfloat16_name_their_lines():
    [long] = findings.outside_tensor_cores(findings.products(MODULE, RUN, ROOT))
    assert (long["kinds"], long["flops"], long["times"], long["lines"]) == (
        ("f32", "f32"),
        4 * 2e9,
        4,
        ("model.py:11",),
    )


def test_attention_is_a_fused_kernel_or_products():
    found = findings.fused_attention(MODULE, RUN, ROOT)
    assert found["fused"] == {"splash_mha_fwd": 1}
    assert [(each["path"], each["flops"]) for each in found["products"]] == [("attention/dot", 2e9)]


def test_recomputation_says_whose_it_is():
    found = {
        each["by"]: (each["bytes"], each["times"], each["path"]) for each in findings.recomputed(MODULE, RUN, ROOT)
    }
    assert found == {"XLA": (4 * 8e6, 4, "negate"), "remat": (4e6, 1, "checkpoint/rematted_computation/negate")}


def test_a_loop_keeps_stacks():
    [stack] = findings.stacks(MODULE, RUN, ROOT)
    assert (stack["type"], stack["bytes"], stack["path"]) == ("f32[4,1000,1000]", 16e6, "dot")


def test_an_analysis_sums_all_of_it():
    row = analysis.analyse(TEXT, MACHINES["h100"], 1, 1e9, ROOT)
    assert row["kernels"] == 2 + 1 + 1 + 4 * 3 + 1 + 1 + 1 + 1
    in_products = 4 * 2e9 + 2e9
    assert row["flops"] == in_products + 4 * 1e6 + 1e6 + 1e6  # the negations of the loop; the sum; the other negation
    assert row["tensor_share"] == 2e9 / row["flops"]
    long, short = 4 * 2e9 / (989.4e12 / 2), 4e6 / 3.35e12  # TensorFloat-32; the products in bfloat16 wait for memory
    assert row["roofline"]["compute"] * 989.4e12 == pytest.approx(2 * 4 * 2e9 + 2e9)
    assert row["roofline"]["seconds"] > max(long, short)
    assert row["roofline"]["mfu"] == pytest.approx(1e9 / 989.4e12 / row["roofline"]["seconds"])
    assert row["measured"]["seconds"] > row["roofline"]["seconds"]
    assert row["measured"]["mfu"] == pytest.approx(1e9 / 989.4e12 / row["measured"]["seconds"])  # of the data sheet
    assert [each["kernel"] for each in row["slowest"][:3]] == ["y", "filled", "again.remat"]


def test_the_slowest_kernels_count_all_of_their_runs():
    """The product of a turn: 2e9 operations on 4 MB that are read once, and 4 MB that are written."""
    listed = {each["kernel"]: each for each in findings.slowest(MODULE, RUN, lambda kernel: kernel.bytes, ROOT)}
    product, negation = listed["y"], listed["again.remat"]
    assert (product["times"], product["flops"], product["bytes"], product["path"]) == (4, 4 * 2e9, 4 * 8e6, "dot")
    assert (negation["times"], negation["flops"], negation["bytes"]) == (4, 0, 4 * 8e6)


def test_lines_of_an_environment_within_the_clone_are_not_ours():
    text = TEXT.replace("/theirs/flax.py", "/ours/.venv/lib/site-packages/flax.py")
    module = hlo.parse(text)
    [y] = [kernel.instruction for kernel in kernels(module) if kernel.instruction.name == "y"]
    assert findings.lines_inside(module, y, ROOT) == ["model.py:11"]


def test_an_attention_kernel_of_a_loop_counts_each_turn():
    flash = '  %flash = bf16[1000,1000]{1,0} custom-call(%x, %x), custom_call_target="__cudnn$fmhaSoftmax"\n'
    text = TEXT.replace("  %again.remat2 =", f"{flash}  %again.remat2 =")
    module = hlo.parse(text)
    fused = findings.fused_attention(module, kernels(module), ROOT)["fused"]
    assert fused == {"__cudnn$fmhaSoftmax": 4, "splash_mha_fwd": 1}


MOVES = """HloModule m

%turn_and_cast (t0: f32[1000,1000]) -> bf16[1000,1000] {
  %t0 = f32[1000,1000]{1,0} parameter(0)
  %cast = bf16[1000,1000]{1,0} convert(%t0)
  ROOT %turned = bf16[1000,1000]{1,0} transpose(%cast), dimensions={1,0}
}

%turn_and_multiply (u0: bf16[1000,1000]) -> bf16[1000,1000] {
  %u0 = bf16[1000,1000]{1,0} parameter(0)
  %turned.1 = bf16[1000,1000]{1,0} transpose(%u0), dimensions={1,0}
  ROOT %dot = bf16[1000,1000]{1,0} dot(%turned.1, %u0), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%put (e0: f32[1000,1000], e1: f32[1,10], e2: s32[]) -> f32[1000,1000] {
  %e0 = f32[1000,1000]{1,0} parameter(0)
  %e1 = f32[1,10]{1,0} parameter(1)
  %e2 = s32[] parameter(2)
  ROOT %changed = f32[1000,1000]{1,0} dynamic-update-slice(%e0, %e1, %e2, %e2)
}

ENTRY %main (a: f32[1000,1000], b: bf16[1000,1000], r: f32[1,10], n: s32[]) -> bf16[1000,1000] {
  %a = f32[1000,1000]{1,0} parameter(0)
  %b = bf16[1000,1000]{1,0} parameter(1)
  %r = f32[1,10]{1,0} parameter(2)
  %n = s32[] parameter(3)
  %first = bf16[1000,1000]{1,0} fusion(%a), kind=kInput, calls=%turn_and_cast
  %stored = f32[1000,1000]{1,0} fusion(%a, %r, %n), kind=kLoop, calls=%put
  ROOT %second = bf16[1000,1000]{1,0} fusion(%b), kind=kOutput, calls=%turn_and_multiply
}
"""


def test_a_cast_beside_a_transpose_has_its_name_and_small_rows_and_products_are_no_copies():
    module = hlo.parse(MOVES)
    listed = findings.copies(module, kernels(module), ROOT)
    assert [(each["kind"], each["bytes"]) for each in listed] == [("transpose", 4e6 + 2e6)]
