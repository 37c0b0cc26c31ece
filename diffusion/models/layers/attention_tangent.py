"""The forward-mode derivative (jvp) of attention in one pass over the keys, without the [N, M] scores: a Pallas kernel.

With s = q k^T / sqrt(D), P = softmax(s) and O = P V, tangents dq, dk, dv give

    ds = (dq k^T + q dk^T) / sqrt(D)
    dO = (P * ds) V + P dV - rowsum(P * ds) O

As in FlashAttention, the kernel reads the keys block by block and keeps the running maximum m of a query's scores. Its
sums of exp(s - m), exp(s - m) ds and exp(s - m) (ds V + dV) are scaled again whenever m grows.

Reference: Lu and Song 2024, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models", appendix F.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusion.models.layers import layout

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(q `[B, N, H, D]`, k `[B, M, H, D]`, v `[B, M, H, D]`) -> `[B, N, H, D]`: attention."""
SPLIT = ("batch", None, "attended heads", None)
QUERIES, KEYS = 128, 64  # rows of a block, the fastest of six on an H100 (benchmarks.gpu.tangent)
SMALLEST = 16  # side of a product of the tensor cores


def with_tangent(attend: Attend, interpret: bool = False) -> Attend:
    """Attention by `attend`, which JAX also differentiates in forward mode, by the kernel of `tangent`.

    Value and reverse mode are `attend`'s, also for the value of a `jax.jvp`, as in the losses of MeanFlow and
    sCM, which take no gradient through the tangent. Where one is taken, the plain product gives it, with its
    scores in memory. A second derivative in forward mode is not defined. Nor is any derivative
    under `jax.vmap`, of either mode: JAX's `linear_call` has no batching rule. Put the axis into the batch.

    JAX's linearisation needs an output that does not depend on the tangents, so that value and tangent are two kernels.

    Args:
        attend: fused attention with a reverse-mode derivative.
        interpret: whether the kernel is emulated by JAX, for devices that are no GPUs.
    """

    @jax.custom_jvp
    def attention(q, k, v):
        return attend(q, k, v)

    @jax.custom_jvp
    def along(q, k, v, out, dq, dk, dv):
        # In a linearisation for reverse mode JAX transposes this, into the cotangents of `attend`.
        forward = lambda fixed, moved: tangent(*fixed, *moved, interpret=interpret)
        backward = lambda fixed, cotangent: jax.vjp(attend, *fixed[:3])[1](cotangent)
        return jax.custom_derivatives.linear_call(forward, backward, (q, k, v, out), (dq, dk, dv))

    @attention.defjvp
    def _(primals, tangents):
        out = attend(*primals)
        return out, along(*primals, out, *tangents)

    @along.defjvp
    def _(primals, tangents):
        plain_tangent = lambda q, k, v, _, *moved: jax.jvp(_plain, (q, k, v), moved)[1]
        return along(*primals), jax.jvp(plain_tangent, primals, tangents)[1]

    return attention


def tangent(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    out: jax.Array,
    dq: jax.Array,
    dk: jax.Array,
    dv: jax.Array,
    interpret: bool = False,
) -> jax.Array:
    """The change of attention's output for changes of its arguments.

    Any lengths N and M, any head width: the kernel masks what its blocks have beyond them. Over a mesh each device
    computes its own examples and heads.

    Args:
        q: queries [B, N, H, D], floating point.
        k: keys [B, M, H, D], of the dtype of q.
        v: values [B, M, H, D], of the dtype of q.
        out: attention's output [B, N, H, D].
        dq: the change of q.
        dk: the change of k.
        dv: the change of v.
        interpret: whether JAX emulates the kernel.

    Returns:
        [B, N, H, D], of the dtype of q. Sums are in float32.
    """
    return layout.on_each_device(functools.partial(_on_a_device, interpret=interpret), *SPLIT)(q, k, v, out, dq, dk, dv)


def _on_a_device(q, k, v, out, dq, dk, dv, interpret):
    from jax.experimental import pallas as pl  # half a second, for those who need it
    from jax.experimental.pallas import triton

    examples, queries, heads, width = q.shape
    keys = k.shape[1]
    power = lambda n, most=2**30: min(most, max(SMALLEST, pl.next_power_of_2(n)))
    rows, columns, features = power(queries, QUERIES), power(keys, KEYS), power(width)
    query_block = pl.BlockSpec((None, rows, None, features), lambda i, b, h: (b, i, h, 0))
    key_block = pl.BlockSpec((None, pl.cdiv(keys, columns) * columns, None, features), lambda i, b, h: (b, 0, h, 0))
    return pl.pallas_call(
        functools.partial(_kernel, queries=queries, keys=keys, columns=columns, width=width),
        grid=(pl.cdiv(queries, rows), examples, heads),
        in_specs=[*[query_block] * 3, *[key_block] * 4],
        out_specs=query_block,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        compiler_params=triton.CompilerParams(num_warps=4 if features <= 64 else 8, num_stages=2),
        interpret=interpret,
        name="attention_tangent",
    )(q, dq, out, k, dk, v, dv)


def _kernel(q_ref, dq_ref, out_ref, k_ref, dk_ref, v_ref, dv_ref, tangent_ref, *, queries, keys, columns, width):
    """A block of queries of one example and head, against all of its keys."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    rows, features = q_ref.shape
    inside = (jnp.arange(features) < width)[None]
    present = ((pl.program_id(0) * rows + jnp.arange(rows)) < queries)[:, None] & inside
    read = lambda ref, mask: triton.load(ref, mask=mask, other=0.0)
    q, dq, out = (read(ref, present) for ref in (q_ref, dq_ref, out_ref))
    scale = width**-0.5
    dot = functools.partial(triton.dot, allow_tf32=False)

    def body(block, sums):
        highest, weights, changes, moved = sums
        which = block * columns + jnp.arange(columns)
        here = (which < keys)[:, None] & inside
        k, dk, v, dv = (
            read(ref.at[pl.ds(block * columns, columns), :], here) for ref in (k_ref, dk_ref, v_ref, dv_ref)
        )
        s = jnp.where((which < keys)[None], scale * dot(q, k.T), -jnp.inf)
        ds = scale * (dot(dq, k.T) + dot(q, dk.T))
        higher = jnp.maximum(highest, s.max(1))
        again = jnp.exp(highest - higher)
        p = jnp.exp(s - higher[:, None])
        p_ds = p * ds
        return (
            higher,
            again * weights + p.sum(1),
            again * changes + p_ds.sum(1),
            again[:, None] * moved + dot(p_ds.astype(v.dtype), v) + dot(p.astype(v.dtype), dv),
        )

    none = jnp.zeros(rows, jnp.float32)
    start = (none - jnp.inf, none, none, jnp.zeros((rows, features), jnp.float32))  # every block has a key
    _, weights, changes, moved = jax.lax.fori_loop(0, pl.cdiv(keys, columns), body, start)
    tangent = (moved - changes[:, None] * out) / weights[:, None]
    triton.store(tangent_ref, tangent.astype(tangent_ref.dtype), mask=present)


def _plain(q, k, v):
    """Attention by its definition."""
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32) / q.shape[-1] ** 0.5
    return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(scores).astype(v.dtype), v)
