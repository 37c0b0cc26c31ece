"""Attention over tokens that are split over devices: keys and values are passed round a ring of devices in blocks.

    out[b, n, h] = sum_m softmax_m(q[b, n, h] . k[b, m, h] / sqrt(D) + bias[b, h, n, m]) v[b, m, h]

Each of P devices keeps its N / P queries. In each of P turns, a device adds one block of M / P keys and values to the
running maximum, sum and output of its queries, and at the same time sends the block to its neighbour. The backward pass
goes round the ring once more: the scores of a block are computed again, and the cotangents of keys and values are
passed on with them. No device therefore holds scores larger than [N / P, M / P], and the number of devices need not
divide the number of heads.

Reference: Liu et al., "Ring Attention with Blockwise Transformers", 2023.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from diffusion.arrays.promotion import promoted
from diffusion.models.layers import layout
from diffusion.models.layers.scan import KEPT

AXIS = "sequence"  # the mesh axis over which layout.RULES splits tokens
TOKENS = ("batch", "tokens", "heads", None)


def ring(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Attention among tokens that `layout.over` splits; only reverse-mode derivatives are defined.

    Args:
        q: queries [B, N, H, D], floating point.
        k: keys [B, M, H, D], of the dtype of q.
        v: values [B, M, H, D], of the dtype of q.
        bias: numbers that are added to the scores, [B or 1, H or 1, N or 1, M or 1], or None.

    Returns:
        The outputs [B, N, H, D], in the dtype of q.

    Raises:
        MeshError: if examples, heads, queries or keys cannot be divided evenly over their axes of the mesh.
    """
    if bias is None:
        return layout.on_each_device(lambda q, k, v: _ring(q, k, v, None), *TOKENS)(q, k, v)
    bias = jnp.broadcast_to(bias, (*bias.shape[:3], k.shape[1]))
    rows = (None if size == 1 else name for name, size in zip(("batch", "heads", "tokens"), bias.shape))
    return layout.on_each_device(_ring, *TOKENS, arguments=(TOKENS, TOKENS, TOKENS, (*rows, None)))(q, k, v, bias)


@jax.custom_vjp
def _ring(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> jax.Array:
    """The ring on one device: q [B, N/P, H, D] and k, v [B, M/P, H, D]; the bias [.., .., N/P or 1, M] has all keys."""
    return _forward(q, k, v, bias)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> tuple:
    """(the output, the arrays for the backward pass), by running sums (Milakov and Gimelshein 2018, algorithm 3)."""
    wide = promoted(q.dtype)
    batch, queries, heads, _ = q.shape

    def add(turn, k, v, out, total, largest):
        """The output [B, N/P, H, D], sum and maximum [B, H, N/P] after one more block."""
        scores = _scores(q, k, bias, turn)
        new = jnp.maximum(largest, scores.max(-1))
        p = jnp.exp(scores - new[..., None])
        shrink = jnp.exp(largest - new)
        block = jnp.einsum("bhnm,bmhd->bnhd", p.astype(v.dtype), v, preferred_element_type=wide)
        return out * _per_query(shrink) + block, total * shrink + p.sum(-1), new

    def turn(carry, turn):
        k, v, *sums = carry
        sent = _sent((k, v))  # sent first, so that the transfer overlaps with the computation
        return (*sent, *add(turn, k, v, *sums)), None

    shape = (batch, heads, queries)
    sums = jnp.zeros(q.shape, wide), jnp.zeros(shape, wide), jnp.full(shape, jnp.finfo(wide).min, wide)
    last = jax.lax.axis_size(AXIS) - 1
    (last_k, last_v, *sums), _ = jax.lax.scan(turn, (k, v, *sums), jnp.arange(last))
    out, total, largest = add(last, last_k, last_v, *sums)
    out = checkpoint_name((out / _per_query(total)).astype(q.dtype), KEPT)
    # They are stored separately, since the logarithm of the sum would be lost beside a mask's large bias.
    total, largest = checkpoint_name((total, largest), KEPT)
    return out, (q, k, v, bias, out, total, largest)


def _backward(kept: tuple, d_out: jax.Array) -> tuple:
    """With P = exp(S - max) / sum: dV = P^T dO, dS = P * (dO V^T - rowsum(dO * O)), dQ = dS K and dK = dS^T Q."""
    q, k, v, bias, out, total, largest = kept
    wide = total.dtype
    scale = q.shape[-1] ** -0.5
    mean = jnp.einsum("bnhd,bnhd->bhn", d_out.astype(wide), out.astype(wide))

    def add(turn, k, v, dk, dv, dq, d_bias):
        p = jnp.exp(_scores(q, k, bias, turn) - largest[..., None]) / total[..., None]
        ds = p * (jnp.einsum("bnhd,bmhd->bhnm", d_out, v, preferred_element_type=wide) - mean[..., None])
        if bias is not None:
            broadcast_axes = tuple(axis for axis in range(3) if bias.shape[axis] == 1)
            columns = ds.sum(broadcast_axes, keepdims=True)
            d_bias = jax.lax.dynamic_update_slice_in_dim(d_bias, columns, _first(k, turn), axis=3)
        ds = (scale * ds).astype(q.dtype)
        dk = dk + jnp.einsum("bhnm,bnhd->bmhd", ds, q, preferred_element_type=wide)
        dv = dv + jnp.einsum("bhnm,bnhd->bmhd", p.astype(q.dtype), d_out, preferred_element_type=wide)
        dq = dq + jnp.einsum("bhnm,bmhd->bnhd", ds, k, preferred_element_type=wide)
        return dk, dv, dq, d_bias

    def turn(carry, turn):
        k, v, *gradients = carry
        sent = _sent((k, v))
        dk, dv, dq, d_bias = add(turn, k, v, *gradients)
        return (*sent, *_sent((dk, dv)), dq, d_bias), None

    zeros = lambda x: jnp.zeros(x.shape, wide)
    gradients = (zeros(k), zeros(v), zeros(q), None if bias is None else zeros(bias))
    last = jax.lax.axis_size(AXIS) - 1
    (last_k, last_v, *gradients), _ = jax.lax.scan(turn, (k, v, *gradients), jnp.arange(last))
    dk, dv, dq, d_bias = add(last, last_k, last_v, *gradients)
    dk, dv = _sent((dk, dv))  # to the device that holds these keys
    d_bias = None if bias is None else d_bias.astype(bias.dtype)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), d_bias


_ring.defvjp(_forward, _backward)


def _sent(block: tuple) -> tuple:
    """The block of the previous device in the ring, while every device sends its block to the next."""
    devices = jax.lax.axis_size(AXIS)
    return jax.lax.ppermute(block, AXIS, [(i, (i + 1) % devices) for i in range(devices)])


def _first(k: jax.Array, turn: jax.Array | int) -> jax.Array:
    """The position among all M keys of the first key in the block that this device holds in a turn."""
    return (jax.lax.axis_index(AXIS) - turn) % jax.lax.axis_size(AXIS) * k.shape[1]


def _scores(q: jax.Array, k: jax.Array, bias: jax.Array | None, turn: jax.Array | int) -> jax.Array:
    """The scores of a block, [B, H, N/P, M/P] in float32 or wider."""
    wide = promoted(q.dtype)
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=wide) * q.shape[-1] ** -0.5
    return scores if bias is None else scores + jax.lax.dynamic_slice_in_dim(bias, _first(k, turn), k.shape[1], axis=3)


def _per_query(x: jax.Array) -> jax.Array:
    """[B, H, N] -> [B, N, H, 1]."""
    return x.swapaxes(1, 2)[..., None]
