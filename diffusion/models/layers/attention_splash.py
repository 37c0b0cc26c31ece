"""Attention on a TPU without the [N, M] scores in memory: JAX's Splash kernels, forward and backward, for any lengths.

    out[b, n, h] = sum_m softmax_m(q[b, n, h] . k[b, m, h] / sqrt(D)) v[b, m, h]

The kernels read keys and queries block by block and keep the running maximum and sum of a query's scores. Lengths that
LANES does not divide are padded; padded keys belong to a segment that no query sees. Over a mesh each device computes
its own examples and heads: with an axis `sequence`, all-to-alls before and after give each device all tokens of its
heads (`diffusion.models.layers.layout`).

Reference: Dao et al., "FlashAttention", 2022; the kernels are `jax.experimental.pallas.ops.tpu.splash_attention`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.arrays.promotion import promoted
from diffusion.models.layers import layout
from diffusion.models.layers.scan import KEPT

LANES = 128  # length of a TPU's vectors; blocks are multiples of it
BLOCK = 512  # longest block of queries or keys; not tuned, for lack of a device
SPLIT = ("batch", None, "attended heads", None)


def splash(q: jax.Array, k: jax.Array, v: jax.Array, interpret: bool = False) -> jax.Array:
    """Attention by Splash kernels, with a reverse-mode derivative; none in forward mode.

    Queries are divided by sqrt(D) in float32 and rounded to their dtype again before the kernel reads them.

    Args:
        q: queries [B, N, H, D], floating point.
        k: keys [B, M, H, D], of the dtype of q.
        v: values [B, M, H, D], of the dtype of q.
        interpret: whether JAX emulates the kernels, for devices that are no TPUs.

    Returns:
        [B, N, H, D], of the dtype of q.
    """
    return layout.on_each_device(functools.partial(_splash, interpret=interpret), *SPLIT)(q, k, v)


def _splash(q: jax.Array, k: jax.Array, v: jax.Array, interpret: bool) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels  # half a second, only for TPUs

    _, queries, heads, size = q.shape
    keys = k.shape[1]
    wide = promoted(q.dtype)
    q = (q.astype(wide) * size**-0.5).astype(q.dtype)
    padded = lambda x: jnp.pad(x, ((0, 0), (0, -x.shape[1] % LANES), (0, 0), (0, 0)))  # to a multiple of LANES
    q, k, v = (padded(x).swapaxes(1, 2) for x in (q, k, v))
    n, m = q.shape[2], k.shape[2]
    block_q, block_kv = _block(n), _block(m)
    kernel = kernels.make_splash_mha(
        kernels.MultiHeadMask([kernels.FullMask((n, m))] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=block_q, block_kv=block_kv,
            block_q_dkv=block_q, block_kv_dkv=block_kv,
            block_q_dq=block_q, block_kv_dq=block_kv,
        ),
        head_shards=1, q_seq_shards=1, interpret=interpret,
        residual_checkpoint_name=KEPT,  # "elementwise" and "narrow" compute no attention again
    )  # fmt: skip
    segments = None
    if m > keys:
        segments = kernels.SegmentIds(q=jnp.zeros(n, jnp.int32), kv=(jnp.arange(m) >= keys).astype(jnp.int32))
    out: Any = jax.vmap(kernel, (0, 0, 0, None))(q, k, v, segments)
    return out.swapaxes(1, 2)[:, :queries]


def _block(length: int) -> int:
    """The longest block of up to BLOCK that LANES divides and that divides a length."""
    return LANES * max(k for k in range(1, BLOCK // LANES + 1) if length % (k * LANES) == 0)
