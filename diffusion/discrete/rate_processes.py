"""Processes with a general rate matrix, for small numbers of symbols: bands of neighbours, a discretised Gaussian.

    q(x_t | x_0) = exp(-log(alpha_t) R)[x_0, x_t]

The processes in `processes` are the case R(i, j) = pi(j) for j != i, with the same schedule alpha. The matrix
exponential is computed by sums and products of nonnegative numbers alone, so small probabilities are accurate too. The
cost is O(K^2) per position and O(K^3) per time.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require
from diffusion.arrays.matrices import matmul
from diffusion.discrete.keeping import Keeping
from diffusion.discrete.processes import Process
from diffusion.schedules import left_broadcast

DISTINCT = 1e-5  # the smallest singular value of q(x_t | x_0) that is inverted, divided by the largest
TERMS = 12  # the terms of a Poisson distribution with mean 1 that are used; the others sum to 1e-9


class RateProcess(NamedTuple):
    """A process on int32 arrays `[B, ...]` of symbols, whose jumps at time t have the rates beta(t) R.

    Here beta is -alpha' / alpha. A `RateProcess` has the methods of `Process`, and can be used in its place. Times are
    `[]` or `[B]`.

    Attributes:
        keeping: schedule alpha(t). Here alpha is not a probability; -log alpha(t) is the elapsed time of the jump
            process.
        prior: the stationary distribution of the rates, which is the distribution of x_1, `[K]`.
        rates: the rates R of the jumps from each symbol (row) to each symbol (column), `[K, K]`; rows sum to 0.
        fastest: largest total rate of jumps away from a symbol.
        slowest: smallest rate at which deviations from the prior decay.
        quickest: largest rate at which deviations from the prior decay.
    """

    keeping: Keeping
    prior: np.ndarray
    rates: np.ndarray
    fastest: float
    slowest: float
    quickest: float

    @property
    def size(self) -> int:
        """The number K of symbols."""
        return len(self.prior)

    @property
    def mask(self) -> None:
        """None: no symbol is a mask."""
        return None

    def marginal(self, x0: Array, t: ArrayLike) -> Array:
        """q(x_t | x_0): float32 `[B, ..., K]`, for symbols x0 `[B, ...]` and times t, `[]` or `[B]`."""
        return self._rows(self._at(t), x0)

    def likelihood(self, x_t: Array, t: ArrayLike) -> Array:
        """q(x_t | x_0 = a) for each symbol a: float32 `[B, ..., K]`, for symbols x_t `[B, ...]`."""
        return self._columns(self._at(t), x_t)

    def transition(self, x_s: Array, s: ArrayLike, t: ArrayLike) -> Array:
        """q(x_t | x_s) for s < t <= 1: float32 `[B, ..., K]`, for symbols x_s `[B, ...]`."""
        return self._rows(self._matrix(*self.keeping.between(s, t)), x_s)

    def posterior(self, x_t: Array, x0: Array, t: ArrayLike, s: ArrayLike) -> Array:
        """The mean over x_0 of q(x_s | x_t, x_0), as in `Process.posterior`: float32 `[B, ..., K]`.

        q(b | z, a) = q(x_t = z | x_s = b) q(x_s = b | x_0 = a) / q(x_t = z | x_0 = a)
        """
        from_x0 = self._product(self._weights(x_t, x0, t), self._at(s))
        to_x_t = self._columns(self._matrix(*self.keeping.between(s, t)), x_t)
        return to_x_t * from_x0

    def ratios(self, x_t: Array, x0: Array, t: ArrayLike) -> Array:
        """The concrete score p_t(y) / p_t(x_t), as in `Process.ratios`: float32 `[B, ..., K]`, 1 at y = x_t."""
        ratios = self._product(self._weights(x_t, x0, t), self._at(t))
        return jnp.where(jax.nn.one_hot(x_t, self.size, dtype=bool), 1.0, ratios)

    def x0_of_ratios(self, x_t: Array, ratios: Array, t: ArrayLike) -> Array:
        """The distribution of x_0 given x_t with these ratios, for t in (0, 1): float32 `[B, ..., K]`.

        The method solves a linear system with the matrix q(x_t | x_0). Rounding errors grow as the rows of this matrix
        approach the prior. Deviations from the prior that have decayed below 1e-5 of their size are not recovered.
        """
        matrix = self._at(t)
        steep = jnp.any(self.keeping.alpha(t) ** self.quickest < 10 * DISTINCT)
        truncated = lambda: jnp.linalg.pinv(matrix, rtol=DISTINCT)  # it takes much longer than an inverse
        inverse = jax.lax.cond(steep, truncated, lambda: jnp.linalg.inv(matrix))
        return self._product(ratios, inverse) * self._columns(matrix, x_t)

    def reverse_rates(self, x_t: Array, x0: Array, t: ArrayLike) -> Array:
        """The rates at which the reversed process jumps from x_t to each symbol y, 0 at y = x_t: float32 `[B, ..., K]`.

        beta(t) R(y, x_t) p_t(y) / p_t(x_t),    infinite at t = 1
        """
        return self.rates_into(x_t, t) * self.ratios(x_t, x0, t)

    def rates_into(self, x_t: Array, t: ArrayLike) -> Array:
        """The forward rates from each symbol y to x_t, 0 at y = x_t: float32 `[B, ..., K]`."""
        return self._jumps(self.rates.T, x_t, t)

    def rates_from(self, x_t: Array, t: ArrayLike) -> Array:
        """The forward rates from x_t to each symbol y, 0 at y = x_t: float32 `[B, ..., K]`."""
        return self._jumps(self.rates, x_t, t)

    def _jumps(self, rates: np.ndarray, x_t: Array, t: ArrayLike) -> Array:
        """beta(t) times the row of x_t in `rates`, 0 at x_t."""
        row = jnp.asarray(rates, jnp.float32)[x_t]
        rate = left_broadcast(self.keeping.rate(t), row)
        return jnp.where(jax.nn.one_hot(x_t, self.size, dtype=bool), 0.0, rate * row)

    def _weights(self, x_t: Array, x0: Array, t: ArrayLike) -> Array:
        """p(a) / q_t(x_t | a) for each a `[B, ..., K]`, 0 where x_t cannot come from a."""
        likelihood = self.likelihood(x_t, t)
        return jnp.where(likelihood > 0, x0 / jnp.where(likelihood > 0, likelihood, 1.0), 0.0)

    def _at(self, t: ArrayLike) -> Array:
        """q(x_t | x_0) for all pairs of symbols, `[..., K, K]`."""
        return self._matrix(self.keeping.alpha(t), self.keeping.replaced(t))

    def _matrix(self, alpha: Array, replaced: Array) -> Array:
        """exp(-log(alpha) R), `[..., K, K]`, where replaced is 1 - alpha; at alpha = 0, all rows are the prior.

        For a short time, the matrix is the mean power of a transition matrix over a Poisson number of jumps. Repeated
        squaring extends it to long times; after each squaring, the rows are normalised.
        """
        alpha, replaced = (jnp.asarray(share, jnp.float32)[..., None, None] for share in (alpha, replaced))
        longest = 40 / self.slowest  # e^-40 is negligible
        squarings = math.ceil(math.log2(self.fastest * longest))  # at least 5, as slowest <= fastest K / (K - 1)
        near, far = -jnp.log1p(-jnp.minimum(replaced, 0.5)), -jnp.log(jnp.where(alpha > 0, alpha, 1.0))
        time = jnp.minimum(jnp.where(alpha < 0.5, far, near), longest)
        jumps = time * self.fastest / 2**squarings  # at most 1
        probabilities = np.eye(self.size) + self.rates / self.fastest
        weight, power = jnp.ones_like(jumps), np.eye(self.size)
        matrix = weight * jnp.eye(self.size)
        for n in range(1, TERMS):
            weight, power = weight * jumps / n, power @ probabilities
            matrix = matrix + weight * jnp.asarray(power, jnp.float32)
        for _ in range(squarings):
            matrix = matmul(matrix, matrix)
            matrix = matrix / jnp.sum(matrix, -1, keepdims=True)
        return jnp.where(alpha > 0, matrix, jnp.asarray(self.prior, jnp.float32))

    def _rows(self, matrix: Array, x: Array) -> Array:
        """matrix[x, :], with a matrix for each example, `[B, K, K]`, or one matrix for all."""
        return matrix[x] if matrix.ndim == 2 else jax.vmap(lambda one, x: one[x])(matrix, x)

    def _columns(self, matrix: Array, x: Array) -> Array:
        return self._rows(jnp.swapaxes(matrix, -1, -2), x)

    def _product(self, p: Array, matrix: Array) -> Array:
        """The product of p and a matrix, `[B, ..., K]`, with a matrix for each example, or one matrix for all."""
        return matmul(p, matrix) if matrix.ndim == 2 else jax.vmap(matmul)(p, matrix)


AnyProcess = Process | RateProcess
"""A process of symbols."""


def rate_process(keeping: Keeping, rates: ArrayLike) -> RateProcess:
    """The process of a rate matrix that connects all symbols.

        q(x_t | x_0) = exp(-log(alpha_t) R)[x_0, x_t]

    Symmetric rates have a uniform stationary distribution.

    Facts:
        prior: the stationary distribution of the rates
        paper: Campbell et al. 2022, "A Continuous Time Framework for Discrete Denoising Models"; Austin et al. 2021,
            "Structured Denoising Diffusion Models in Discrete State-Spaces", whose matrices become rates here

    Args:
        keeping: schedule alpha(t); the jump process runs for the time -log alpha(t).
        rates: the rates R(from, to), `[K, K]` with K at least 2, at least 0; the diagonal is ignored.

    Raises:
        ValueError: if rates have another shape, are negative, or do not connect all symbols.
    """
    require(keeping, Keeping, "keeping", "a schedule such as discrete.linear()")
    matrix = np.array(rates, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"rate_process: rates have the shape {matrix.shape}. Valid: [K, K] with K at least 2")
    np.fill_diagonal(matrix, 0)
    if not (np.isfinite(matrix).all() and (matrix >= 0).all()):
        raise ValueError(
            f"rate_process: the rates lie between {matrix.min():g} and {matrix.max():g}. Valid: finite numbers of at "
            "least 0"
        )
    np.fill_diagonal(matrix, -matrix.sum(1))
    prior = _kept_law(matrix)
    decays = np.sort(-np.linalg.eigvals(matrix).real)
    return RateProcess(keeping, prior, matrix, float(-matrix.diagonal().min()), float(decays[1]), float(decays[-1]))


def banded_rates(size: int, band: int = 1) -> np.ndarray:
    """Rates 1 / K between symbols that are at most `band` apart; band = 1 gives nearest neighbours.

    Args:
        size: number K of ordered symbols, at least 2.
        band: largest distance of a jump, in 1 .. K - 1.

    Returns:
        The rates, float64 `[K, K]`, for `rate_process`.

    Raises:
        ValueError: if a number is out of range.

    Paper: Austin et al. 2021, the band-diagonal matrix.
    """
    if not 1 <= band < size:
        raise ValueError(f"banded_rates: band = {band} for {size} symbols. Valid: 1 .. {size - 1}")
    return np.where(_distances(size) <= band, 1 / size, 0.0)


def gaussian_rates(size: int, width: float) -> np.ndarray:
    """Rates that are a Gaussian function of the distance, so that jumps to nearer symbols are more likely.

        exp(-4 (i - j)^2 / ((K - 1)^2 width)) / sum over n from -(K - 1) to K - 1 of exp(-4 n^2 / ((K - 1)^2 width))

    Args:
        size: number K of ordered symbols, at least 2.
        width: width of the Gaussian, > 0; the paper's beta.

    Returns:
        The rates, float64 `[K, K]`, for `rate_process`.

    Raises:
        ValueError: if a number is out of range.

    Paper: Austin et al. 2021, the discretised Gaussian matrix.
    """
    if size < 2 or not width > 0:
        raise ValueError(
            f"gaussian_rates: {size} symbols, width = {width}. Valid: at least 2 symbols, and a width above 0"
        )
    shape = lambda n: np.exp(-4.0 * n**2 / ((size - 1) ** 2 * width))
    return shape(_distances(size)) / shape(np.arange(1 - size, size)).sum()


def _distances(size: int) -> np.ndarray:
    return np.abs(np.subtract.outer(np.arange(size), np.arange(size)))


def _kept_law(matrix: np.ndarray) -> np.ndarray:
    """The stationary distribution pi with pi R = 0 and pi > 0."""
    size = len(matrix)
    equations = np.vstack([matrix.T, np.ones(size)])
    law, _, rank, _ = np.linalg.lstsq(equations, np.append(np.zeros(size), 1.0), rcond=1e-10)
    if rank < size or law.min() <= 1e-12:
        raise ValueError(
            "rate_process: some symbols cannot reach all others and return. Valid: rates that connect all symbols"
        )
    return law / law.sum()
