"""Matrix products in 8-bit floating point (fp8) for training, with one scale for each array, from its largest value.

    Q_T(a) = round_T(a / s_a),  s_a = max|a| / max T         T = e4m3 (at most 448), for gradients e5m2 (at most 57344)

    x W   = s_x s_W  Q_e4m3(x) Q_e4m3(W)
    dL/dx = s_g s_W  Q_e5m2(g) Q_e4m3(W)^T                   g = dL/d(x W)
    dL/dW = s_x s_g  Q_e4m3(x)^T Q_e5m2(g)

The scales come from the arrays at hand ("current scaling"), so that a run has no state of them to keep. Products are
summed in float32; the backward pass keeps Q(x) and Q(W), a byte an element. Where a value is infinite or NaN, so is the
output. No derivative in forward mode is defined.

Reference: Micikevicius et al. 2022, "FP8 Formats for Deep Learning".
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import fp8_ops

FORWARD = jnp.float8_e4m3fn
BACKWARD = jnp.float8_e5m2
ADA = 8.9  # the first compute capability of NVIDIA with fp8 products: Ada; Hopper has 9.0

_products: contextvars.ContextVar[list[tuple[int, ...]] | None] = contextvars.ContextVar("fp8", default=None)


@contextlib.contextmanager
def in_fp8() -> Iterator[list[tuple[int, ...]]]:
    """Computes the products of tokens with kernels in fp8 (`products.rows_first`) if they are traced inside.

    Yields:
        The shapes of the kernels of these products, as they are traced.
    """
    noted: list[tuple[int, ...]] = []
    token = _products.set(noted)
    try:
        yield noted
    finally:
        _products.reset(token)


def is_used(x: jax.Array, kernel: jax.Array, summed: int) -> bool:
    """Whether this product is computed in fp8, and notes it: inside `in_fp8`, over two or more axes that are kept.

    Products that are computed once for each example, such as the modulation by the time, are little work and set the
    scale of all tokens.
    """
    noted = _products.get()
    if noted is None or x.ndim - summed < 2:
        return False
    noted.append(kernel.shape)
    return True


def refusal(device: Any) -> str:
    """Returns why a device computes no products in fp8, or an empty string where it does; a CPU emulates them."""
    if device.platform == "cpu":
        return ""
    capability = getattr(device, "compute_capability", None)
    if device.platform not in ("gpu", "cuda") or capability is None:
        return (
            f"{device.device_kind} has no products in fp8 that XLA uses; NVIDIA GPUs from Ada and Hopper on have them"
        )
    if float(capability) < ADA:
        return f"{device.device_kind} has compute capability {capability}, and products in fp8 begin with {ADA}"
    return ""


def quantised(x: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Rounds an array to fp8 on the scale of its largest value.

    Args:
        x: floating point, any shape.
        dtype: `jnp.float8_e4m3fn` or `jnp.float8_e5m2`.

    Returns:
        (q of that type, scale [] float32): x is about q times scale. The scale of zeros is 1.
    """
    largest = jnp.max(jnp.abs(x)).astype(jnp.float32)
    # A scale below the least normal number would be flushed to 0.
    scale = jnp.maximum(largest / float(jnp.finfo(dtype).max), jnp.finfo(jnp.float32).tiny)
    scale = jnp.where(largest == 0, 1.0, scale)
    return fp8_ops.quantize(x, dtype, scale, jnp.float32), scale


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, kernel: jax.Array, summed: int) -> jax.Array:
    """The product of x with a kernel over the last axes of x and the first of the kernel, in fp8.

    Args:
        x: [..., *K], floating point.
        kernel: [*K, *F], of the dtype of x.
        summed: number of axes K.

    Returns:
        [..., *F], of the dtype of x.
    """
    return _forward(x, kernel, summed)[0]


def _forward(x: jax.Array, kernel: jax.Array, summed: int) -> tuple[jax.Array, Any]:
    q_x, s_x = quantised(x, FORWARD)
    q_k, s_k = quantised(kernel, FORWARD)
    rows = x.ndim - summed
    out = _dot(q_x, q_k, range(rows, x.ndim), range(summed), s_x * s_k, x.dtype)
    return out, (q_x, s_x, q_k, s_k)


def _backward(summed: int, saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    q_x, s_x, q_k, s_k = saved
    q_g, s_g = quantised(g, BACKWARD)
    rows = q_x.ndim - summed
    to_x = _dot(q_g, q_k, range(rows, g.ndim), range(summed, q_k.ndim), s_g * s_k, g.dtype)
    to_kernel = _dot(q_x, q_g, range(rows), range(rows), s_x * s_g, g.dtype)
    return to_x, to_kernel


def _dot(a: jax.Array, b: jax.Array, over_a: Any, over_b: Any, scale: jax.Array, dtype: Any) -> jax.Array:
    """scale (a . b) over these axes, of a dtype."""
    if jax.default_backend() == "cpu":  # a CPU multiplies this type; the values are exactly the same
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    axes = ((tuple(over_a), tuple(over_b)), ((), ()))
    # In the output's own type, so that XLA's fused product writes no float32 first; on a GPU it still sums in float32.
    # The product before its scale is beyond the range of float16.
    unscaled = jnp.float32 if dtype == jnp.float16 else dtype
    return (scale * jax.lax.dot_general(a, b, axes, preferred_element_type=unscaled)).astype(dtype)


product.defvjp(_forward, _backward)
