"""Floating-point operations of any network, counted in its trace: products and convolutions, a multiply-add as two.

    counted_flops(module.apply, variables, x, t, condition) / len(x)         # of one example, forward

Training takes three times as many (see `flops.train_flops`). `flops` is the formula for a DiT, which a test compares
with this count.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

from diffusion.models.layers import bfloat16_products


def counted_flops(function: Callable, *arguments: Any) -> int:
    """Counts the operations of one call; nothing is computed.

    Additions, norms and activations are left out, as are calls that JAX does not look into, such as fused kernels. The
    most expensive branch of a condition counts; a loop of unknown length counts once.

    Args:
        function: any that JAX traces, a network for example.
        *arguments: pytrees of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        Operations, twice the multiply-adds.
    """
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name = equation.primitive.name
    if name in ("dot_general", bfloat16_products.NAME):
        (summed, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in summed)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
    inner = [_of(jaxpr) for value in equation.params.values() for jaxpr in _jaxprs(value)]
    if name == "scan":
        return equation.params["length"] * sum(inner)
    return max(inner, default=0) if name == "cond" else sum(inner)


def _jaxprs(value: Any) -> list[Any]:
    """The traces in a parameter of an equation."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return [getattr(closed, "jaxpr", closed) for closed in values if hasattr(getattr(closed, "jaxpr", closed), "eqns")]
