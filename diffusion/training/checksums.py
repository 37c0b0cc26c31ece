"""Checksums of arrays, computed where the arrays lie.

Orbax restores a file with a flipped bit without a word, so a checkpoint carries checksums of its own. They are sums
of hashes of (position, value), so they depend on the values alone, not on how an array is split over devices.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffusion.training.sharding import leaf_name


def _mix(x: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3 (Appleby, 2011): a bijection of uint32 in which every bit moves every other."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _bits(x: jax.Array) -> jax.Array:
    """The bits of an array as uint32, one word an element (two for 64-bit types, in a last dimension)."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    word = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)


def checksum(x: jax.Array) -> jax.Array:
    """Returns two 32-bit checksums of an array.

    With h the mixing function and i the position in row-major order, ``sum_i h(h(i + c) ^ bits_i)`` modulo 2^32, for
    two constants c. h is a bijection, so a change of one element always changes both.

    Args:
      x: an array of any shape and of a type of 1, 2, 4 or 8 bytes.

    Returns:
      uint32 [2].
    """
    bits = _bits(x)
    position = jnp.zeros(bits.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(bits.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    words = [_mix(_mix(position + jnp.uint32(c)) ^ bits).sum(dtype=jnp.uint32) for c in (0x9E3779B9, 0x7F4A7C15)]
    return jnp.stack(words)


@jax.jit
def _checksums(leaves: list) -> jax.Array:
    return jnp.stack([checksum(leaf) for leaf in leaves])


def checksums(tree: Any) -> dict[str, str]:
    """Returns the checksum of every leaf by its path, as 16 hexadecimal digits. Waits for the arrays.

    Args:
      tree: pytree of jax.Array, sharded in any way.

    Returns:
      {"params/blocks/kernel": "0123456789abcdef", ...}.
    """
    named = jax.tree_util.tree_leaves_with_path(tree)
    words = jax.device_get(_checksums([leaf for _, leaf in named])) if named else []
    return {leaf_name(path): f"{int(a):08x}{int(b):08x}" for (path, _), (a, b) in zip(named, words)}
