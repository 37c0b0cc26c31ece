"""Floating-point operations of any network, counted in its trace: products and convolutions, a multiply-add as two.

    counted_flops(module.apply, variables, x, t, condition) / len(x)         # of one example, forward

Training takes three times as many (see `flops.train_flops`). `flops` is the formula for a DiT, which a test compares
with this count.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from diffusion.models.layers import bfloat16_products

PRODUCTS = ("dot_general", bfloat16_products.NAME)


def counted_flops(function: Callable, *arguments: Any, branch: Callable = max, in_fp8: bool = False) -> int:
    """Counts the operations of one call; nothing is computed.

    Additions, norms and activations are left out, as are calls that JAX does not look into, such as fused kernels. One
    branch of a condition counts; a loop of unknown length counts once. A convolution counts the positions in the
    padding, and not the zeros between the rows of a dilated input, which a transposed convolution and the gradient of a
    strided one have. `jax.shard_map` counts once for each device.

    Args:
        function: any that JAX traces, a network for example.
        *arguments: pytrees of arrays or of `jax.ShapeDtypeStruct`.
        branch: the choice of the branch that counts: max for the most expensive, min for the cheapest.
        in_fp8: whether only products of two arrays in fp8 count, as `layers.fp8` makes them.

    Returns:
        Operations, twice the multiply-adds.
    """
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr, branch, in_fp8)


def _of(jaxpr: Any, branch: Callable, in_fp8: bool) -> int:
    widened = {  # a CPU multiplies arrays in fp8 in a wider type
        equation.outvars[0]: equation.invars[0]
        for equation in jaxpr.eqns
        if in_fp8 and equation.primitive.name == "convert_element_type"
    }
    narrow = lambda atom: not isinstance(atom, Literal) and "float8" in str(widened.get(atom, atom).aval.dtype)
    counts = lambda equation: not in_fp8 or all(map(narrow, equation.invars[:2]))
    return sum(_of_equation(equation, branch, in_fp8, counts) for equation in jaxpr.eqns)


def _of_equation(equation: Any, branch: Callable, in_fp8: bool, counts: Callable[[Any], bool]) -> int:
    name = equation.primitive.name
    if name in (*PRODUCTS, "conv_general_dilated") and not counts(equation):
        return 0
    if name in PRODUCTS:
        (summed, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in summed)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [_of(jaxpr, branch, in_fp8) for value in equation.params.values() for jaxpr in _jaxprs(value)]
    if name == "scan":
        return equation.params["length"] * sum(inner)
    return branch(inner, default=0) if name == "cond" else devices(equation) * sum(inner)


def devices(equation: Any) -> int:
    """The number of devices that compute what an equation contains: several for `jax.shard_map`, else 1."""
    if equation.primitive.name != "shard_map":
        return 1
    return math.prod(equation.params["mesh"].shape[axis] for axis in equation.params["newly_manual_axes"])


def _of_convolution(equation: Any) -> int:
    how = equation.params
    _, kernel_axes, result_axes = how["dimension_numbers"]
    kernel, result = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    places = zip(
        (result[axis] for axis in result_axes[2:]),
        (kernel[axis] for axis in kernel_axes[2:]),
        how["window_strides"],
        how["rhs_dilation"],
        how["lhs_dilation"],
        (before for before, _ in how["padding"]),
        strict=True,
    )
    pairs = math.prod(_pairs(*along) for along in places)
    return 2 * result[result_axes[0]] * result[result_axes[1]] * kernel[kernel_axes[1]] * pairs


def _pairs(result: int, kernel: int, stride: int, kernel_dilation: int, dilation: int, before: int) -> int:
    """How many pairs of a position of the result and one of the kernel meet no zero of the dilation, along an axis."""
    positions = np.arange(result)[:, None] * stride + np.arange(kernel) * kernel_dilation - before
    return int((positions % dilation == 0).sum())


def _jaxprs(value: Any) -> list[Any]:
    """The traces in a parameter of an equation."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return [getattr(closed, "jaxpr", closed) for closed in values if hasattr(getattr(closed, "jaxpr", closed), "eqns")]
