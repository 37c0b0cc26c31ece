"""A permutation of any number of records that is computed position by position, without a table."""

import numpy as np

ROUNDS = 10  # number of rounds of the Feistel network, as in NIST's FF1


def keyed_permutation(positions: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """The images of positions under a permutation of 0..size - 1.

    A Feistel network permutes 0..2^b - 1, where 2^b is the least power of two that is at least `size`. The bits are
    divided into two halves L and R; in turn, a hash of one half is added modulo 2 to the other half,

        L <- L ^ h(R + k_i),    R <- R ^ h(L + k_{i+1}),

    which the same step undoes, whatever h is. A result of `size` or above goes through the network again, until the
    result is below `size` (cycle walking). Since 2^b < 2 size, fewer than two passes are needed on average.

    Args:
        positions: int64 [n], each in 0..size - 1.
        size: number of records, in 1..2^62.
        keys: uint64 [ROUNDS], random words k, which select the permutation.

    Returns:
        The images of the positions, int64 [n], each in 0..size - 1.

    Raises:
        ValueError: if a position or the size is out of range.

    Reference:
        Luby and Rackoff 1988, "How to construct pseudorandom permutations from pseudorandom functions"; Black and
        Rogaway 2002, "Ciphers with arbitrary finite domains", section 3.
    """
    if not 1 <= size <= 2**62:
        raise ValueError(f"size must be in 1..2^62, got {size}.")
    if positions.size and not 0 <= positions.min() <= positions.max() < size:
        raise ValueError(f"positions must be in 0..{size - 1}, got {positions.min()} to {positions.max()}.")
    bits = (size - 1).bit_length()
    image = _feistel(positions.astype(np.uint64), bits, keys)
    while len(outside := np.flatnonzero(image >= size)):
        image[outside] = _feistel(image[outside], bits, keys)
    return image.astype(np.int64)


def _feistel(x: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """The images of x, uint64 [n], under a permutation of 0..2^bits - 1."""
    width = np.uint64(bits // 2)  # bits of the right half
    left = x >> width
    right = x & _mask(bits // 2)
    for one, other in zip(keys[::2], keys[1::2], strict=True):
        left ^= _hash(right + one) & _mask(bits - bits // 2)
        right ^= _hash(left + other) & _mask(bits // 2)
    return left << width | right


def _mask(bits: int) -> np.uint64:
    return np.uint64(2**bits - 1)


def _hash(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele et al. 2014): a bijection in which every bit affects every other."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
