"""Random keys for further draws beside those of a function that receives a key."""

import jax
from jax import Array

LARGEST = 2**31


def further(key: Array, number: int) -> Array:
    """A key for further draws beside those of a function that may split `key` or fold steps into it.

    JAX's `split(key)[n]` is `fold_in(key, n)`, and steps are int32. So the numbers are counted from the other end of
    uint32: neither a split nor a step reaches them.

    Args:
        key: the key `[]` that the function receives.
        number: the number of the draws, in 1 .. 2^31, different for all draws beside the same function.

    Raises:
        ValueError: if the number is out of range.
    """
    if not 1 <= number <= LARGEST:
        raise ValueError(f"further: number = {number}. Valid: 1 to {LARGEST}")
    return jax.random.fold_in(key, 2**32 - number)
