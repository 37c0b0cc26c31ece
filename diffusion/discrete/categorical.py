"""Draws of symbols from probabilities, and of the noise for them; each example is drawn from its key."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtri

from diffusion.arrays.arguments import require_keys


def exponential(high: Array, low: Array) -> Array:
    """Exponential numbers from 64 random bits, with a small relative error from 2^-65 up to 45.

    A uniform float32 number is a multiple of 2^-23, so an exponential number made from it never lies between 0 and
    1e-7. If there are many symbols, those with small probabilities are then drawn too rarely (Zheng et al. 2024,
    "Masked Diffusion Models are Secretly Time-Agnostic Masked Models", section 4).

        -log(1 - u),    u = (high + (low + 1/2) 2^-32) 2^-32

    Args:
        high: random bits, uint32 of any shape.
        low: further random bits, uint32 of the same shape.

    Returns:
        The exponential numbers, float32, at least 2^-65.
    """
    top, share = _from_the_nearer_end(high, low)
    return jnp.where(top, -jnp.log(share), -jnp.log1p(-share))


def normal(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal numbers from 64 random bits, whose tails reach 9 rather than 5.4 as from 23 bits.

    The largest of many numbers decides a symbol, and among 50,000 numbers from 23 bits the largest is often not unique.

        Phi^-1(u),    u as in `exponential`

    Args:
        keys: typed random keys, `[B]`.
        shape: shape of one example.

    Returns:
        The numbers, float32 `[B, *shape]`. Example i depends only on keys[i].
    """

    def one(key: Array) -> Array:
        top, share = _from_the_nearer_end(*jax.random.bits(key, (2, *shape), jnp.uint32))
        tail = ndtri(share)
        return jnp.where(top, -tail, tail)

    return jax.vmap(one)(keys)


def draw(keys: Array, probabilities: Array) -> Array:
    """Draws symbols with given probabilities, as the argmin of E_k / p_k with exponential numbers E.

    Args:
        keys: typed random keys, `[B]`.
        probabilities: the probabilities, float `[B, ..., K]`, at least 0; they need not sum to 1.

    Returns:
        The symbols, int32 `[B, ...]`. Example i depends only on keys[i] and probabilities[i]. At a position where a
        probability is NaN, or all are 0, the symbol is -1.
    """
    require_keys(keys, len(probabilities), "a draw needs one key for each example")

    def one(key: Array, p: Array) -> Array:
        high, low = jax.random.bits(key, (2, *p.shape), jnp.uint32)
        race = jnp.where(p > 0, exponential(high, low) / p, jnp.inf)
        lost = jnp.isnan(p).any(-1) | (p <= 0).all(-1)
        return jnp.where(lost, -1, jnp.argmin(race, -1)).astype(jnp.int32)

    return jax.vmap(one)(keys, probabilities)


def happens(keys: Array, probability: Array) -> Array:
    """Draws whether events with given probabilities happen: an exponential number is below -log(1 - p).

    Args:
        keys: `[B]` typed random keys.
        probability: float `[B, ...]` in [0, 1]; with 0 an event never happens, with 1 always, and small ones are exact
            to 2^-64.

    Returns:
        Bool `[B, ...]`. Example i depends only on keys[i] and probability[i].
    """

    def one(key: Array, p: Array) -> Array:
        high, low = jax.random.bits(key, (2, *p.shape), jnp.uint32)
        return exponential(high, low) < -jnp.log1p(-p)

    return jax.vmap(one)(keys, probability)


def log_probabilities(p: Array) -> Array:
    """log p, and -inf for p = 0, where the derivative is 0; that of `jnp.log` is infinite, and times 0 it is NaN."""
    return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), -jnp.inf)


def _from_the_nearer_end(high: Array, low: Array) -> tuple[Array, Array]:
    """(whether u = (high + (low + 1/2) 2^-32) 2^-32 is above 1/2, the distance of u from the nearer of 0 and 1)."""
    top = high >= jnp.uint32(2**31)
    near = jnp.where(top, ~high, high)
    rest = jnp.where(top, ~low, low)
    return top, (near.astype(jnp.float32) + (rest.astype(jnp.float32) + 0.5) * 2.0**-32) * 2.0**-32
