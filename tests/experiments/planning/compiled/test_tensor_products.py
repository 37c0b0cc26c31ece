"""Operations of products and convolutions, counted by hand and by trying every place of a window."""
# ruff: noqa: E501 (XLA writes long lines)

import itertools
import json

import pytest

from diffusion.experiments.planning.compiled import hlo
from diffusion.experiments.planning.compiled.tensor_products import Product, product

ATTENTION = json.dumps(
    {"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"dimensions": ["2", "3", "10", "20"]}}}
)
GEMM = json.dumps({"gemm_backend_config": {"dot_dimension_numbers": {"lhs_contracting_dimensions": ["0"]}}})
TEXT = f"""HloModule m

ENTRY %main (a: bf16[5,7,11]) -> f32[] {{
  %a = bf16[5,7,11]{{2,1,0}} parameter(0)
  %b = bf16[5,11,13]{{2,1,0}} parameter(1)
  %f = f32[11,4]{{1,0}} parameter(2)
  %q = bf16[2,10,3,8]{{3,2,1,0}} parameter(3)
  %k = bf16[2,20,3,8]{{3,2,1,0}} parameter(4)
  %dot = f32[5,7,13]{{2,1,0}} dot(%a, %b), lhs_batch_dims={{0}}, lhs_contracting_dims={{2}}, rhs_batch_dims={{0}}, rhs_contracting_dims={{1}}
  %exact = f32[4,4]{{1,0}} dot(%f, %f), lhs_contracting_dims={{0}}, rhs_contracting_dims={{0}}, operand_precision={{highest,highest}}
  %call = (f32[4,4]{{1,0}}, s8[64]{{0}}) custom-call(%f, %f), custom_call_target="__cublas$gemm", backend_config={GEMM}
  %forward = (bf16[2,3,10,8]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax", backend_config={ATTENTION}
  %backward = (bf16[2,3,10,8]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmaxBackward", backend_config={ATTENTION}
  %unknown = f32[4]{{0}} custom-call(%f), custom_call_target="mine"
  ROOT %sum = f32[] add(%f, %f)
}}
"""


def test_dots_and_calls_of_libraries():
    main = hlo.parse(TEXT).computations["main"]
    of = lambda name: product(main.instructions[name], main)
    assert of("dot") == Product(2 * 5 * 7 * 13 * 11, ("bf16", "bf16"), "default")
    assert of("exact") == Product(2 * 4 * 4 * 11, ("f32", "f32"), "highest")
    assert of("call") == Product(2 * 4 * 4 * 11, ("f32", "f32"), "default")
    assert of("forward") == Product(2 * 2 * (2 * 3 * 10 * 20) * 8, ("bf16", "bf16"), "default")  # q k^T and p v
    assert of("backward") == Product(5 * 2 * (2 * 3 * 10 * 20) * 8, ("bf16", "bf16"), "default")
    assert of("unknown") is None and of("sum") is None


def convolution(image, kernel, result, window, labels, rest="", call=""):
    """The product of a convolution of these shapes, or of cuDNN's call of that name on the first two of them."""
    operation = f'custom-call(%x, %w), custom_call_target="{call}"' if call else "convolution(%x, %w)"
    window = f"window={{{window}}}, " if window else ""
    shape = lambda sizes: f"f32[{','.join(map(str, sizes))}]"
    text = (
        f"HloModule m\n\nENTRY %main (x: f32[1]) -> f32[1] {{\n  %x = {shape(image)} parameter(0)\n"
        f"  %w = {shape(kernel)} parameter(1)\n"
        f"  ROOT %y = {shape(result)} {operation}, {window}dim_labels={labels}{rest}\n}}\n"
    )
    main = hlo.parse(text).computations["main"]
    return product(main.instructions["y"], main).flops


def pairs(image, result, kernel, stride=1, pad=0, dilation=1, holes=1):
    """Places (of the result, of the kernel) that meet a value of the input, tried one by one."""
    places = (o * stride + k * dilation - pad for o, k in itertools.product(range(result), range(kernel)))
    return sum(0 <= place <= (image - 1) * holes and place % holes == 0 for place in places)


def test_convolutions_without_padding():
    # Each of 2 x 6 x 6 x 5 results sums 3 x 3 x 4 products.
    flops = convolution((2, 8, 8, 4), (3, 3, 4, 5), (2, 6, 6, 5), "size=3x3", "b01f_01io->b01f")
    assert flops == 2 * (2 * 6 * 6 * 5) * (3 * 3 * 4)


def test_padding_and_rows_of_zeros_cost_nothing():
    padded = convolution((2, 8, 8, 4), (3, 3, 4, 5), (2, 4, 8, 5), "size=3x3 stride=2x1 pad=0_1x1_1", "b01f_01io->b01f")
    # 4 rows of windows of 3 from 0, 2, 4, 6: the last lacks one; 8 columns: the two at the sides lack one each.
    assert padded == 2 * (2 * 5 * 4) * 11 * 22
    assert (pairs(8, 4, 3, stride=2), pairs(8, 8, 3, pad=1)) == (11, 22)
    spread = convolution((2, 4, 4), (3, 4, 5), (2, 9, 5), "size=3 pad=2_2 lhs_dilate=2 rhs_reversal=1", "b0f_0io->b0f")
    assert spread == 2 * (2 * 5 * 4) * pairs(4, 9, 3, pad=2, holes=2)
    dilated = convolution((2, 8, 4), (3, 4, 5), (2, 8, 5), "size=3 pad=2_2 rhs_dilate=2", "b0f_0io->b0f")
    assert dilated == 2 * (2 * 5 * 4) * pairs(8, 8, 3, pad=2, dilation=2)


@pytest.mark.parametrize(
    "call, shapes",
    [
        ("__cudnn$convForward", ((2, 8, 4), (3, 4, 5), (2, 4, 5))),
        ("__cudnn$convBackwardInput", ((2, 4, 5), (3, 4, 5), (2, 8, 4))),
        ("__cudnn$convBackwardFilter", ((2, 8, 4), (2, 4, 5), (3, 4, 5))),
    ],
)
def test_the_derivatives_of_a_convolution_take_as_many_operations_as_itself(call, shapes):
    flops = convolution(*shapes, "size=3 stride=2 pad=0_1", "b0f_0io->b0f", call=call)
    assert flops == 2 * (2 * 5 * 4) * 11


def test_groups_of_features_see_their_own_inputs():
    flops = convolution((2, 8, 6), (3, 2, 9), (2, 6, 9), "size=3", "b0f_0io->b0f", ", feature_group_count=3")
    assert flops == 2 * (2 * 6 * 9) * (3 * 2)


def test_a_matrix_product_as_a_tpu_writes_it():
    assert convolution((16, 32), (32, 8), (16, 8), "", "bf_io->bf") == 2 * 16 * 8 * 32
