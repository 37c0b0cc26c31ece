"""Draws of symbols from probabilities, each example's from its own key."""

__all__ = ["draw", "exponential", "happens"]

import jax
import jax.numpy as jnp
from jax import Array


def exponential(high: Array, low: Array) -> Array:
    """Exponential numbers from 64 random bits, exact in their logarithm down to 2^-64 and up to 44.

    A float32 uniform number is a multiple of 2^-23. Its exponential number has no smaller value than 1e-7, and symbols
    of small probability are drawn too seldom where there are many of them (Zheng et al. 2024, "Masked Diffusion Models
    are Secretly Time-Agnostic Masked Models", section 4).

        -log(1 - u),    u = (high + (low + 1/2) 2^-32) 2^-32

    Args:
        high: uint32, of any shape.
        low: uint32, of the same shape.

    Returns:
        float32, at least 2^-65.
    """
    top = high >= jnp.uint32(2**31)
    near = jnp.where(top, ~high, high)  # the distance of u from the nearer of 0 and 1
    rest = jnp.where(top, ~low, low)
    share = (near.astype(jnp.float32) + (rest.astype(jnp.float32) + 0.5) * 2.0**-32) * 2.0**-32
    return jnp.where(top, -jnp.log(share), -jnp.log1p(-share))


def draw(keys: Array, probabilities: Array) -> Array:
    """Symbols from probabilities: argmin of E_k / p_k with exponential numbers E.

    Args:
        keys: `[B]` typed random keys.
        probabilities: float `[B, ..., K]`, at least 0; they need not sum to 1.

    Returns:
        int32 `[B, ...]`. Example i depends on keys[i] and probabilities[i] alone.
    """

    def one(key: Array, p: Array) -> Array:
        high, low = jax.random.bits(key, (2, *p.shape), jnp.uint32)
        race = jnp.where(p > 0, exponential(high, low) / p, jnp.inf)
        return jnp.argmin(race, -1).astype(jnp.int32)

    return jax.vmap(one)(keys, probabilities)


def happens(keys: Array, probability: Array) -> Array:
    """Whether events of some probability happen: where an exponential number is below -log(1 - p).

    Args:
        keys: `[B]` typed random keys.
        probability: float `[B, ...]` in [0, 1]; 0 never happens and 1 always, and small ones are exact to 2^-64.

    Returns:
        Bool `[B, ...]`. Example i depends on keys[i] and probability[i] alone.
    """

    def one(key: Array, p: Array) -> Array:
        high, low = jax.random.bits(key, (2, *p.shape), jnp.uint32)
        return exponential(high, low) < -jnp.log1p(-p)

    return jax.vmap(one)(keys, probability)
