"""Products of matrices in bfloat16 on a CPU, in the forms for which XLA takes the processor's own bfloat16 units.

    product(x, w, a, b)[i, j] = sum_k x[i, k] w[k, j]        with the axis a of x and b of w summed; rounded to bfloat16

XLA's CPU compiler gives AMX and AVX512-BF16 a product whose operands are bfloat16 and whose result is float32. Where
the result is bfloat16, or where the left operand lies transposed in memory, it converts the operands to float32 and
multiplies those, more slowly. Therefore the result here is float32, which is rounded, and a transposed left operand is
copied. Both derivatives of a product are such products: the kernel's, x^T g, is the transposed one. It is a primitive
of JAX, since no composition of others has derivatives of that kind.

On other devices it is `jax.lax.dot_general`, which also sums in float32 and rounds once.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

NAME = "dot_general_bfloat16"
"""Name of the primitive; its parameter `dimension_numbers` is as in `jax.lax.dot_general`."""
COPIED = 16  # rows of zeros behind a transposed operand: XLA drops a bare transpose, or a barrier after it


def product(x: jax.Array, w: jax.Array, a: int = 1, b: int = 0) -> jax.Array:
    """The product of two matrices over the axis a of x and b of w.

    Args:
        x: [M, K] bfloat16, or [K, M] with a = 0.
        w: [K, N] bfloat16, or [N, K] with b = 1.
        a, b: the axes that are summed.

    Returns:
        [M, N] bfloat16, summed in float32 and rounded once.
    """
    return _product.bind(x, w, dimension_numbers=(((a,), (b,)), ((), ())))


def _on_others(x: jax.Array, w: jax.Array, dimension_numbers: Any) -> jax.Array:
    return lax.dot_general(x, w, dimension_numbers)


def _on_cpu(x: jax.Array, w: jax.Array, dimension_numbers: Any) -> jax.Array:
    ((a,), (b,)), _ = dimension_numbers
    rows = x.shape[1 - a]
    if a == 0:
        x = jnp.pad(x.T, ((0, COPIED), (0, 0)))
    out = lax.dot_general(x, w, (((1,), (b,)), ((), ())), preferred_element_type=jnp.float32)
    return out[:rows].astype(jnp.bfloat16)


def _shape(x: Any, w: Any, dimension_numbers: Any) -> Any:
    ((a,), (b,)), _ = dimension_numbers
    return ShapedArray((x.shape[1 - a], w.shape[1 - b]), x.dtype)


def _to_x(g: jax.Array, x: Any, w: jax.Array, dimension_numbers: Any) -> jax.Array:
    """The cotangent of x: g w^T, or its transpose where x is transposed."""
    ((a,), (b,)), _ = dimension_numbers
    return product(g, w, 1, 1 - b) if a == 1 else product(w, g, 1 - b, 1)


def _to_w(g: jax.Array, x: jax.Array, w: Any, dimension_numbers: Any) -> jax.Array:
    """The cotangent of w: x^T g, or its transpose where w is transposed."""
    ((a,), (b,)), _ = dimension_numbers
    return product(x, g, 1 - a, 0) if b == 0 else product(g, x, 0, 1 - a)


def _batched(arguments: Any, axes: Any, dimension_numbers: Any) -> Any:
    """Under `jax.vmap`: the general product."""
    return jax.vmap(lambda x, w: _on_others(x, w, dimension_numbers), axes)(*arguments), 0


_product = Primitive(NAME)
_product.def_impl(jax.jit(_on_cpu, static_argnames="dimension_numbers"))
_product.def_abstract_eval(_shape)
ad.defbilinear(_product, _to_x, _to_w)
batching.primitive_batchers[_product] = _batched
mlir.register_lowering(_product, mlir.lower_fun(_on_others, multiple_results=False))
mlir.register_lowering(_product, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu")
