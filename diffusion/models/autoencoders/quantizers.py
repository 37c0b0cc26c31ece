"""Discrete codes for continuous vectors: a learned codebook, and finite scalar quantization without one.

    quantized = quantize(z, codebook)                  # z [B, ..., D]: straight-through gradient, and two losses
    state = codebook_init(codes)                       # or without a gradient: the codebook follows its vectors
    state = codebook_update(state, z, quantized.indices, decay=0.99)
    state = restart_dead(state, z, key)
    fsq = FiniteScalar((8, 5, 5, 5))                   # 1,000 codes of four numbers each
    values, indices = fsq.quantize(z)

Under `jit`, sums over a batch run over the whole batch, on any number of devices.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.not_a_number import nan_outside
from diffusion.arrays.promotion import promoted


class Quantized(NamedTuple):
    """Vectors, and the nearest codes that a decoder receives instead of them.

    Attributes:
        values: [B, ..., D], exactly the codes; their gradient passes unchanged to z (straight through).
        indices: int32 [B, ...], the indices of the codes in the codebook.
        codebook: [B], mean |stop z - code|^2, which moves the codes; not needed if the codebook is a moving average.
        commitment: [B], mean |z - stop code|^2, which keeps the outputs of the encoder near the codes; its weight is
            0.25 in the papers.
    """

    values: Array
    indices: Array
    codebook: Array
    commitment: Array


def nearest(z: Array, codebook: Array) -> tuple[Array, Array]:
    """The codes that are nearest to vectors, argmin_k |z - e_k|; ties go to the first.

    Args:
        z: vectors [..., D], floating-point numbers.
        codebook: K codes [K, D].

    Returns:
        (indices int32 [...], codes [..., D] in the dtype of the codebook).

    Raises:
        ValueError: if the last axes differ, or the codebook is not a matrix.
    """
    if codebook.ndim != 2 or z.shape[-1] != codebook.shape[-1]:
        raise ValueError(f"z {z.shape} and codebook {codebook.shape} do not fit: expected [..., D] and [K, D]")
    # |z|^2 is the same for all codes. The highest precision is needed because accelerators multiply with few bits by
    # default, and would choose other codes.
    product = jnp.einsum("...d,kd->...k", z.astype(codebook.dtype), codebook, precision=jax.lax.Precision.HIGHEST)
    indices = jnp.argmin(jnp.sum(jnp.square(codebook), axis=-1) - 2 * product, axis=-1).astype(jnp.int32)
    return indices, codebook[indices]


def straight_through(z: Array, values: Array) -> Array:
    """Exactly the values, but with the gradient of z."""
    return jax.lax.stop_gradient(values) + (z - jax.lax.stop_gradient(z))


def quantize(z: Array, codebook: Array) -> Quantized:
    """Vector quantization with a straight-through gradient.

        values = z + stop(e_k - z),   k = argmin_k |z - e_k|

    Args:
        z: [B, ..., D], the outputs of an encoder.
        codebook: K codes [K, D].

    Returns:
        `Quantized`; the loss of the VQ-VAE is codebook + 0.25 commitment.

    Raises:
        ValueError: under the conditions of `nearest`.

    Reference: van den Oord, Vinyals & Kavukcuoglu, "Neural Discrete Representation Learning", 2017, equation 3.
    """
    indices, codes = nearest(z, codebook)
    per_example = lambda error: jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))
    return Quantized(
        straight_through(z, codes),
        indices,
        per_example(jax.lax.stop_gradient(z) - codes),
        per_example(z - jax.lax.stop_gradient(codes)),
    )


class Codebook(NamedTuple):
    """A codebook that follows the vectors assigned to it, with the moving averages from which it is computed.

    Attributes:
        codes: the codes e_k, float32 [K, D].
        counts: float32 [K], the moving average N_k of the number of a batch's vectors that are assigned to code k.
        sums: float32 [K, D], the moving average m_k of the sum of these vectors.
    """

    codes: Array
    counts: Array
    sums: Array


def codebook_init(codes: Array) -> Codebook:
    """The state of a new codebook: each code counts as one vector assigned to it.

    The count starts at one, not at zero, to agree with the sum, which starts at the code. With a count of zero, a code
    without vectors would become very large, because its sum would be divided by the small smoothed count.

    Args:
        codes: the first codes [K, D].
    """
    codes = jnp.asarray(codes, jnp.float32)
    return Codebook(codes, jnp.ones(codes.shape[0]), codes)


def codebook_update(
    codebook: Codebook, z: Array, indices: Array, decay: float = 0.99, epsilon: float = 1e-5
) -> Codebook:
    """Moves each code towards the mean of the vectors assigned to it, in place of a gradient on the codebook's loss.

        N_k <- g N_k + (1 - g) n_k,   m_k <- g m_k + (1 - g) sum of the z assigned to k
        e_k <- m_k / N'_k,            N'_k = (N_k + epsilon) / (N + K epsilon) N,   N = sum_k N_k

    Args:
        codebook: the state.
        z: the vectors of a batch [..., D], through which no gradient flows.
        indices: the indices of their codes, int [...], from `nearest`.
        decay: g, in [0, 1).
        epsilon: constant of the Laplace smoothing N', >= 0.

    Returns:
        The next state.

    Raises:
        ValueError: if decay is not in [0, 1).

    Reference: van den Oord et al. 2017, appendix A.1; the smoothing follows the authors' code and Razavi et al.,
    "Generating Diverse High-Fidelity Images with VQ-VAE-2", 2019.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay = {decay} must be in [0, 1), for example 0.99")
    size, width = codebook.codes.shape
    rows = jax.lax.stop_gradient(z).astype(jnp.float32).reshape(-1, width)
    assigned = indices.reshape(-1)
    n = jnp.zeros(size).at[assigned].add(1.0)
    total = jnp.zeros((size, width)).at[assigned].add(rows)
    counts = decay * codebook.counts + (1 - decay) * n
    sums = decay * codebook.sums + (1 - decay) * total
    count_sum = jnp.sum(counts)
    smoothed = (counts + epsilon) / (count_sum + size * epsilon) * count_sum
    return Codebook(sums / smoothed[:, None], counts, sums)


def restart_dead(codebook: Codebook, z: Array, key: Array, threshold: float = 1.0) -> tuple[Codebook, Array]:
    """Replaces each dead code, to which hardly any vectors are assigned, by a random vector of the batch.

    A new code starts with the count `threshold`, so that it has at least one batch to attract vectors.

    Args:
        codebook: the state after `codebook_update`.
        z: the vectors of the batch [..., D]; if there are at least K, all restarted codes get different vectors.
        key: a random key, a new one in each step.
        threshold: count below which a code is dead, > 0. Counts are numbers of vectors in a batch, so that a larger
            batch needs a larger threshold.

    Returns:
        (the next state, the number of restarted codes int32 []).

    Raises:
        ValueError: if the threshold is not positive, because then no code would ever be dead.

    Reference: Dhariwal et al., "Jukebox: A Generative Model for Music", 2020, section 3.
    """
    if not threshold > 0:
        raise ValueError(f"threshold = {threshold} must be positive; codes used less than this are replaced")
    size, width = codebook.codes.shape
    rows = jax.lax.stop_gradient(z).astype(jnp.float32).reshape(-1, width)
    drawn = jax.random.choice(key, rows, (size,), replace=len(rows) < size)
    dead = codebook.counts < threshold
    fresh = Codebook(drawn, jnp.full(size, threshold, jnp.float32), threshold * drawn)
    choose = lambda new, old: jnp.where(dead.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)
    return jax.tree.map(choose, fresh, codebook), jnp.sum(dead, dtype=jnp.int32)


def histogram(indices: Array, size: int) -> Array:
    """The number of uses of each code, float32 [size], from indices int [...]; the counts of batches can be added."""
    return jnp.zeros(size).at[indices.reshape(-1)].add(1.0)


def perplexity(counts: Array) -> Array:
    """The effective number of codes: exp of the entropy of their frequencies, in 1..K.

    Args:
        counts: numbers of uses [K], not all zero, from `histogram`.
    """
    p = counts / jnp.sum(counts)
    return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0)))


def usage(counts: Array) -> Array:
    """The share of codes that are used at all, in (0, 1]; `counts` as in `perplexity`."""
    return jnp.mean(counts > 0)


@dataclasses.dataclass(frozen=True)
class FiniteScalar:
    """Finite scalar quantization: rounds each of D numbers to one of a few levels, without a learned codebook.

        h = tanh(z + shift) (L - 1) (1 - 0.001) / 2 - offset,   values = round(h) / floor(L / 2) in [-1, 1]

    For odd L the offset is 0. For even L it is 1/2, and the levels are -L/2 .. L/2 - 1. As in the paper's listing,
    shift = tan(offset / half) with half = (L - 1) (1 - 0.001) / 2, so that z = 0 lies near the level 0.

    Attributes:
        levels: the number of levels L, >= 2, of each of the D numbers; the number of codes is their product. The paper
            recommends (8, 6, 5) for 240 codes, (8, 5, 5, 5) for 1,000, (7, 5, 5, 5, 5) for 4,375, (8, 8, 8, 5, 5, 5)
            for 64,000.

    Raises:
        ValueError: if there are no levels, a number has fewer than two levels, or there are more codes than an int32
            can count.

    Reference: Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple", 2023, section 3 and appendix A.
    """

    levels: tuple[int, ...]

    def __post_init__(self):
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels = {self.levels} must be at least 2 for each number, for example (8, 5, 5, 5)")
        if self.size > np.iinfo(np.int32).max:
            raise ValueError(f"levels = {self.levels} make {self.size} codes, more than an int32 can count")

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    @property
    def codebook(self) -> Array:
        """All codes, float32 [size, D], in the order of their indices."""
        return self.codes(jnp.arange(self.size, dtype=jnp.int32))

    def bound(self, z: Array) -> Array:
        """Numbers h [..., D] for any numbers z [..., D], such that every h rounds to one of the levels."""
        if z.shape[-1] != len(self.levels):
            raise ValueError(
                f"each vector of z {z.shape} has {z.shape[-1]} numbers, but there are levels for {len(self.levels)}"
            )
        levels = np.asarray(self.levels)
        half = (levels - 1) * (1 - 1e-3) / 2
        offset = np.where(levels % 2, 0.0, 0.5)
        z = z.astype(promoted(z.dtype))
        return jnp.tanh(z + np.tan(offset / half).astype(z.dtype)) * half.astype(z.dtype) - offset.astype(z.dtype)

    def quantize(self, z: Array) -> tuple[Array, Array]:
        """Rounds vectors to codes, with the gradient of `bound`.

        Args:
            z: vectors [..., D].

        Returns:
            (values [..., D] in [-1, 1], indices int32 [...] in 0..size - 1).
        """
        h = self.bound(z)
        values = straight_through(h, jnp.round(h)) / self._half
        return values, self.indices(values)

    def indices(self, codes: Array) -> Array:
        """The indices int32 [...] of codes [..., D] in [-1, 1]; the first number of a code changes fastest."""
        digits = jnp.round(jax.lax.stop_gradient(codes) * self._half).astype(jnp.int32) + self._half
        return jnp.sum(digits * self._basis, axis=-1, dtype=jnp.int32)

    def codes(self, indices: Array) -> Array:
        """The codes float32 [..., D] of indices int [...] in 0..size - 1, NaN for others; the inverse of `indices`."""
        digits = indices[..., None] // self._basis % np.asarray(self.levels, np.int32)
        return nan_outside(indices, self.size, (digits - self._half).astype(jnp.float32) / self._half)

    @property
    def _half(self) -> np.ndarray:
        return np.asarray(self.levels, np.int32) // 2

    @property
    def _basis(self) -> np.ndarray:
        return np.cumprod([1, *self.levels[:-1]]).astype(np.int32)
