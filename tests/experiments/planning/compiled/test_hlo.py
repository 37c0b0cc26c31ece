"""The text of compiled programs: one written by hand, and one that XLA compiled."""
# ruff: noqa: E501 (XLA writes long lines)

import inspect

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from diffusion.experiments.planning.compiled import hlo

TEXT = """HloModule jit_f, is_scheduled=true

FileNames
1 "/here/model.py"
2 "/there/library.py"

FunctionNames
1 "call"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=4 end_column=9}
2 {file_name_id=2 function_name_id=1 line=30 end_line=30 column=4 end_column=9}
3 {file_name_id=1 function_name_id=1 line=8 end_line=8 column=4 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}


%body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[], bf16[4,8]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  ROOT %t = (s32[], /*index=1*/bf16[4,8]{1,0}) tuple(%i, %x)
}

%condition (p: (s32[], bf16[4,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(24)
  %other = f32[] constant(99)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (a: f32[4,8]) -> bf16[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %loop = (s32[], bf16[4,8]{1,0}) while(%a), condition=%condition, body=%body
  %known = (s32[], bf16[4,8]{1,0}) while(%a), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %pair = (f8e4m3fn[2]{0}, pred[3]{0}) custom-call(%a, %loop), custom_call_target="f(x)", metadata={op_name="jit(f)/dot" stack_frame_id=3}
  %branch = bf16[4,8]{1,0} conditional(%a, %a), branch_computations={%body, %condition}, metadata={op_name="cond"}
  ROOT %old = bf16[4,8]{1,0} fusion(%a), kind=kLoop, calls=%body, metadata={op_name="jit(f)/old" source_file="/here/old.py" source_line=3}
}
"""


def test_instructions_have_their_arrays_operands_and_lines():
    module = hlo.parse(TEXT)
    main = module.computations["main"]
    assert module.entry == "main" and main.root == "old" and list(main.instructions) == [
        "a", "loop", "known", "pair", "branch", "old",
    ]  # fmt: skip
    pair = main.instructions["pair"]
    assert pair.operation == "custom-call" and pair.operands == ("a", "loop") and pair.path == "jit(f)/dot"
    assert [(array.kind, array.sizes, array.bytes) for array in pair.results] == [
        ("f8e4m3fn", (2,), 2),
        ("pred", (3,), 3),
    ]
    assert module.lines(pair) == ("/here/model.py:8", "/there/library.py:30", "/here/model.py:7")
    assert module.lines(main.instructions["old"]) == ("/here/old.py:3",)
    assert module.lines(main.instructions["a"]) == ()
    assert main.instructions["old"].called == ("body",)
    assert main.instructions["branch"].called == ("body", "condition")
    [counter, kept] = module.computations["body"].instructions["p"].results
    assert (counter.sizes, kept.sizes, kept.bytes, kept.space) == ((), (4, 8), 64, 1)


def test_a_side_that_varies_counts_with_its_bound():
    text = "HloModule m\n\nENTRY %main (x: f32[<=4,8]) -> f32[<=4,8] {\n  ROOT %x = f32[<=4,8]{1,0} parameter(0)\n}\n"
    [x] = hlo.parse(text).computations["main"].instructions["x"].results
    assert (x.sizes, x.bytes) == ((4, 8), 4 * 4 * 8)


def test_a_loop_turns_as_often_as_xla_knows_or_its_condition_compares():
    module = hlo.parse(TEXT)
    loops = module.computations["main"].instructions
    assert hlo.turns(module, loops["loop"]) == 24
    assert hlo.turns(module, loops["known"]) == 5


WINDOWED = """
%windowed (p: (bf16[4], u32[])) -> (bf16[4], u32[]) {
  %p = (bf16[4]{0}, u32[]) parameter(0)
  %x = bf16[4]{0} get-tuple-element(%p), index=0
  %count = u32[]{:T(128)} get-tuple-element(%p), index=1
  %two = u32[]{:T(128)} constant(2)
  %next = u32[]{:T(128)} add(%count, %two)
  ROOT %both = (bf16[4]{0}, u32[]) tuple(%x, %next)
}

%less_than_seven (p: (bf16[4], u32[])) -> pred[] {
  %p = (bf16[4]{0}, u32[]) parameter(0)
  %count = u32[]{:T(128)} get-tuple-element(%p), index=1
  %limit = u32[]{:T(128)} constant(7)
  ROOT %less = pred[] compare(%count, %limit), direction=LT
}

ENTRY %main (a: f32[4,8]) -> bf16[4,8] {
  %gathered = (bf16[4]{0}, u32[]) while(%a), condition=%less_than_seven, body=%windowed
"""


def test_a_loop_in_unsigned_steps_of_two_turns_half_as_often():
    module = hlo.parse(TEXT.replace("\nENTRY %main (a: f32[4,8]) -> bf16[4,8] {\n", WINDOWED))
    assert hlo.turns(module, module.computations["main"].instructions["gathered"]) == 4  # 0, 2, 4 and 6


def test_a_text_without_a_beginning_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("module @jit_f { func.func public @main() }")


def test_a_program_that_xla_compiled_names_its_lines(monkeypatch):
    def inner(x):
        return jnp.sort(x)

    def outer(x):
        return jax.lax.scan(lambda carry, _: (inner(carry), None), x, length=3)[0]

    lines = lambda function: inspect.getsourcelines(function)[1] + 1
    jax.config.update("jax_enable_compilation_cache", False)  # a stored program has the lines of an earlier day
    compilation_cache.reset_cache()  # JAX asks once whether there is one
    try:
        text = jax.jit(outer).lower(jnp.zeros(64)).compile().as_text()
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()
    module = hlo.parse(text)
    [sort] = [
        each for of in module.computations.values() for each in of.instructions.values() if each.operation == "sort"
    ]
    named = [line for line in module.lines(sort) if line.startswith(f"{__file__}:")]
    assert named[:2] == [f"{__file__}:{lines(inner)}", f"{__file__}:{lines(outer)}"]
