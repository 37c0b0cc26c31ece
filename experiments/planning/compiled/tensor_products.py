"""Matrix products and convolutions in a compiled program: operations, types and precision."""

import json
import math
import re
from typing import Any, NamedTuple

import numpy as np

from diffusion.experiments.planning.compiled.hlo import Array, Computation, Instruction
from diffusion.experiments.planning.compiled.kernels import Kernel

# cuDNN's convolutions: where a call has the input, the kernel and the output, among its operands and its result.
CONVOLUTIONS = {
    "__cudnn$convForward": (0, 1, "result"),
    "__cudnn$convBiasActivationForward": (0, 1, "result"),
    "__cudnn$convBackwardInput": ("result", 1, 0),
    "__cudnn$convBackwardFilter": (0, "result", 1),
}
# The number of products of queries and keys in a fused attention. The backward pass computes the scores again.
FORWARD, BACKWARD = 2, 5


class Product(NamedTuple):
    """A product, or the products of a fused attention.

    Attributes:
        flops: its operations; a multiply-add counts as two.
        kinds: types of the operands, "bf16" or "f32" ...
        precision: "default", "high" or "highest".
    """

    flops: int
    kinds: tuple[str, ...]
    precision: str


def product(instruction: Instruction, computation: Computation) -> Product | None:
    """The product of an instruction; None if it has none, or is a call that XLA does not describe."""
    operations = _operations(instruction, computation)
    if not operations:
        return None
    kinds = tuple(arrays[0].kind for arrays in computation.operands(instruction)[:2])
    named = re.search(r"operand_precision=\{(\w+)", instruction.attributes)
    return Product(operations, kinds, named.group(1) if named else "default")


def products_of(kernel: Kernel) -> list[Product]:
    """The products in one run of a kernel."""
    return [multiplied for pair in kernel.inside if (multiplied := product(*pair))]


def target(instruction: Instruction) -> str:
    """The library function that an instruction calls; "" if it calls none."""
    match = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return match.group(1) if match else ""


def config(instruction: Instruction) -> Any:
    """The JSON that XLA's backend wrote beside an instruction; {} without any."""
    _, _, text = instruction.attributes.partition("backend_config=")
    content = json.JSONDecoder().raw_decode(text)[0] if text else {}
    return json.loads(content) if isinstance(content, str) and content.startswith("{") else content


def _operations(instruction: Instruction, computation: Computation) -> int:
    """The operations of an instruction's products; 0 if it has none."""
    operands = [arrays[0] for arrays in computation.operands(instruction) if arrays]
    name = target(instruction)
    if instruction.operation == "dot":
        match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        return _dot(instruction, operands[0], match.group(1).split(",") if match else [])
    if instruction.operation == "convolution":
        return _convolution(instruction, operands[0], operands[1], instruction.results[0])
    if name in CONVOLUTIONS:
        arrays = [instruction.results[0] if index == "result" else operands[index] for index in CONVOLUTIONS[name]]
        return _convolution(instruction, *arrays)
    if name.startswith("__cublas"):
        numbers = config(instruction)["gemm_backend_config"]["dot_dimension_numbers"]
        return _dot(instruction, operands[0], numbers["lhs_contracting_dimensions"])
    if name.startswith("__cudnn$fmha"):
        shape = config(instruction)["cudnn_fmha_backend_config"]["intermediate_tensor_shape"]["dimensions"]
        products = BACKWARD if name.endswith("Backward") else FORWARD
        return 2 * products * math.prod(map(int, shape)) * operands[0].sizes[-1]
    return 0


def _dot(instruction: Instruction, left: Array, summed: list[str]) -> int:
    return 2 * instruction.results[0].elements * math.prod(left.sizes[int(axis)] for axis in summed if axis)


def _convolution(instruction: Instruction, image: Array, kernel: Array, result: Array) -> int:
    """Operations of a convolution; positions in the padding, and between the rows of a dilated input, cost none."""
    labels = re.findall(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)[0]
    image_sizes, kernel_sizes, result_sizes = (
        dict(zip(labelled, array.sizes, strict=True))
        for labelled, array in zip(labels, (image, kernel, result), strict=True)
    )
    pairs = [
        _pairs(image_sizes[str(axis)], kernel_sizes[str(axis)], result_sizes[str(axis)], window)
        for axis, window in enumerate(windows(instruction))
    ]
    return 2 * result_sizes["b"] * result_sizes["f"] * kernel_sizes["i"] * math.prod(pairs)


def windows(instruction: Instruction) -> list[dict[str, tuple[int, ...]]]:
    """The window of a convolution along each axis: "size", "stride", "pad" and others, as far as XLA writes them."""
    match = re.search(r"\bwindow=\{([^}]*)\}", instruction.attributes)
    entries = dict(entry.split("=") for entry in match.group(1).split()) if match else {}
    by_axis = {name: [tuple(map(int, part.split("_"))) for part in text.split("x")] for name, text in entries.items()}
    return [{name: parts[axis] for name, parts in by_axis.items()} for axis in range(len(by_axis.get("size", ())))]


def _pairs(image: int, kernel: int, result: int, window: dict[str, tuple[int, ...]]) -> int:
    """How many pairs of a position of the result and one of the kernel meet a value of the input, along one axis."""
    number = lambda name: window.get(name, (1,))[0]
    places = np.arange(result)[:, None] * number("stride") + np.arange(kernel) * number("rhs_dilate")
    places -= window.get("pad", (0,))[0]
    inside = (places >= 0) & (places <= (image - 1) * number("lhs_dilate"))
    return int((inside & (places % number("lhs_dilate") == 0)).sum())
