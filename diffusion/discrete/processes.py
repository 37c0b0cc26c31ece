"""Processes that replace symbols: a symbol keeps its value with probability alpha(t), or else is drawn from a prior.

    q(x_t | x_0) = alpha_t 1[x_t = x_0] + (1 - alpha_t) pi(x_t)

independently for each position. The prior pi of a masked process is a single symbol; that of a uniform process has
equal probabilities. All functions cost O(K) per position, without a K x K matrix.
"""

import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.arrays.arguments import described, is_count, require
from diffusion.arrays.broadcasting import flattened
from diffusion.discrete.keeping import Keeping
from diffusion.schedules import left_broadcast


class Symbols(Protocol):
    """Anything with a number of symbols."""

    @property
    def size(self) -> int: ...


class Process(NamedTuple):
    """A process on int32 arrays `[B, ...]` of symbols 0 .. K - 1.

    Attributes:
        keeping: the schedule alpha(t).
        prior: `[K]` probabilities of a replacing symbol, which are also the distribution of x_1 at each position.
        mask: the mask symbol, if the prior is this symbol alone; None otherwise.
    """

    keeping: Keeping
    prior: np.ndarray
    mask: int | None

    @property
    def size(self) -> int:
        """The number K of symbols, including the mask."""
        return len(self.prior)

    def marginal(self, x0: Array, t: ArrayLike) -> Array:
        """q(x_t | x_0): float32 `[B, ..., K]`, for symbols x0 `[B, ...]` and times t, `[]` or `[B]`."""
        alpha, replaced = self._shares(t, x0)
        return alpha[..., None] * self._one_hot(x0) + replaced[..., None] * jnp.asarray(self.prior)

    def masked(self, x0: Array, t: ArrayLike) -> Array:
        """The probability that a symbol of a masked process is the mask at time t: float32, in the shape of x0."""
        return jnp.broadcast_to(left_broadcast(self.keeping.replaced(t), x0), x0.shape)

    def likelihood(self, x_t: Array, t: ArrayLike) -> Array:
        """q(x_t | x_0 = a) for each symbol a: float32 `[B, ..., K]`, for symbols x_t `[B, ...]`."""
        here = self._one_hot(x_t)
        alpha, replaced = self._shares(t, here)
        return alpha * here + replaced * self._prior_of(x_t)

    def transition(self, x_s: Array, s: ArrayLike, t: ArrayLike) -> Array:
        """q(x_t | x_s) for s < t <= 1: float32 `[B, ..., K]`, for symbols x_s `[B, ...]`.

        alpha_t / alpha_s 1[x_t = x_s] + (1 - alpha_t / alpha_s) pi(x_t)
        """
        alpha, replaced = self._shares_between(s, t, x_s)
        return alpha[..., None] * self._one_hot(x_s) + replaced[..., None] * jnp.asarray(self.prior)

    def posterior(self, x_t: Array, x0: Array, t: ArrayLike, s: ArrayLike) -> Array:
        """The mean over x_0 of q(x_s | x_t, x_0), s < t, the distribution of a reverse step.

            q(b | z, a) = q(x_t = z | x_s = b) q(x_s = b | x_0 = a) / q(x_t = z | x_0 = a)

        Args:
            x_t: int `[B, ...]` symbols at time t.
            x0: float `[B, ..., K]` probabilities of x_0, from a network, or one-hot for known data.
            t: times in (0, 1], `[]` or `[B]`.
            s: times in [0, t), `[]` or `[B]`.

        Returns:
            float32 `[B, ..., K]` probabilities of x_s. A symbol outside of the prior's support does not change, also at
            t = 1, where it is a known part of the sample.

        The paper: Austin et al. 2021, eq. 3 and 4.
        """
        weights, total = self._weights(x_t, x0, t)
        alpha_s, replaced_s = self._shares(s, x0)
        alpha_ts, replaced_ts = self._shares_between(s, t, x0)
        here, prior_here = self._one_hot(x_t), self._prior_of(x_t)
        likelihood = alpha_ts * here + replaced_ts * prior_here  # q(x_t | x_s = b), for each b
        from_x0 = alpha_s * weights + replaced_s * jnp.asarray(self.prior) * total
        return jnp.where(prior_here > 0, likelihood * from_x0, here)

    def ratios(self, x_t: Array, x0: Array, t: ArrayLike) -> Array:
        """The concrete score p_t(y) / p_t(x_t) of all symbols y, from the distribution of x_0 given x_t.

            sum_a p(a | x_t) q_t(y | a) / q_t(x_t | a)

        At a symbol outside of the prior's support, x_0 = x_t is certain, and the ratios are not determined; the sum has
        only this term, and no rate depends on it, since pi(x_t) = 0.

        Args:
            x_t: int `[B, ...]` symbols at time t.
            x0: float `[B, ..., K]` probabilities of x_0 given x_t.
            t: times in (0, 1], `[]` or `[B]`.

        Returns:
            Ratios float32 `[B, ..., K]`, 1 at y = x_t.

        The papers: Meng et al. 2022, "Concrete Score Matching"; Lou et al. 2024, "Discrete Diffusion Modeling by
        Estimating the Ratios of the Data Distribution", section 3.
        """
        weights, total = self._weights(x_t, x0, t)
        alpha, replaced = self._shares(t, x0)
        ratios = alpha * weights + replaced * jnp.asarray(self.prior) * total
        return jnp.where(self._one_hot(x_t) > 0, 1.0, ratios)

    def x0_of_ratios(self, x_t: Array, ratios: Array, t: ArrayLike) -> Array:
        """The distribution of x_0 given x_t with these ratios, the inverse of `ratios`.

            w(a) = (ratios(a) - (1 - alpha) pi(a) sum ratios) / alpha,    p(a | x_t) = w(a) q_t(x_t | a)

        Args:
            x_t: int `[B, ...]` symbols at time t.
            ratios: ratios float `[B, ..., K]`, 1 at y = x_t.
            t: times in (0, 1), `[]` or `[B]`.

        Returns:
            float32 `[B, ..., K]` probabilities of x_0.
        """
        alpha, replaced = self._shares(t, ratios)
        total = jnp.sum(ratios, -1, keepdims=True)
        weights = (ratios - replaced * jnp.asarray(self.prior) * total) / alpha
        return weights * self.likelihood(x_t, t)

    def reverse_rates(self, x_t: Array, x0: Array, t: ArrayLike) -> Array:
        """The rates at which the reversed process jumps from x_t to each symbol y, 0 at y = x_t.

            beta(t) pi(x_t) p_t(y) / p_t(x_t),    beta = -alpha' / alpha

        At t = 1 they are finite for masks, and infinite if the prior has symbols other than x_t.

        Args:
            x_t: int `[B, ...]` symbols at time t.
            x0: float `[B, ..., K]` probabilities of x_0 given x_t.
            t: times in (0, 1], `[]` or `[B]`.

        Returns:
            Rates float32 `[B, ..., K]`, in jumps per unit of time.

        The paper: Campbell et al. 2022, "A Continuous Time Framework for Discrete Denoising Models", proposition 1.
        """
        weights, total = self._weights(x_t, x0, t)
        here, prior_here, prior = self._one_hot(x_t), self._prior_of(x_t), jnp.asarray(self.prior)
        _, replaced = self._shares(t, x0)
        decay, rate = left_broadcast(self.keeping.decay(t), x0), left_broadcast(self.keeping.rate(t), x0)
        mixed = jnp.where(prior > 0, rate * replaced * prior * total, 0.0)
        rates = prior_here * (decay * weights + mixed)
        return jnp.where((here > 0) | (prior_here <= 0), 0.0, rates)

    def rates_into(self, x_t: Array, t: ArrayLike) -> Array:
        """The forward rates from each symbol y to x_t, 0 at y = x_t: float32 `[B, ..., K]`.

        beta(t) pi(x_t)
        """
        here = self._one_hot(x_t)
        return jnp.where(here > 0, 0.0, left_broadcast(self.keeping.rate(t), here) * self._prior_of(x_t))

    def rates_from(self, x_t: Array, t: ArrayLike) -> Array:
        """The forward rates from x_t to each symbol y, 0 at y = x_t: float32 `[B, ..., K]`.

        beta(t) pi(y)
        """
        here = self._one_hot(x_t)
        return jnp.where(here > 0, 0.0, left_broadcast(self.keeping.rate(t), here) * jnp.asarray(self.prior))

    def _weights(self, x_t: Array, x0: Array, t: ArrayLike) -> tuple[Array, Array]:
        """p(a) / q_t(x_t | a) for each a `[B, ..., K]`, and their sum over a.

        At a symbol outside of the prior's support, x_0 = x_t is certain, so all of p is moved there.
        """
        likelihood = self.likelihood(x_t, t)
        known = jnp.where(self._prior_of(x_t) > 0, x0, self._one_hot(x_t))
        weights = known / jnp.where(likelihood > 0, likelihood, 1.0)
        return weights, jnp.sum(weights, -1, keepdims=True)

    def _prior_of(self, x_t: Array) -> Array:
        """pi(x_t): float32 `[B, ..., 1]`."""
        return jnp.asarray(self.prior)[x_t][..., None]

    def _shares(self, t: ArrayLike, x: Array) -> tuple[Array, Array]:
        """alpha_t and 1 - alpha_t, broadcastable against x."""
        return left_broadcast(self.keeping.alpha(t), x), left_broadcast(self.keeping.replaced(t), x)

    def _shares_between(self, s: ArrayLike, t: ArrayLike, x: Array) -> tuple[Array, Array]:
        """alpha_t / alpha_s and 1 - alpha_t / alpha_s, broadcastable against x."""
        stays, replaced = self.keeping.between(s, t)
        return left_broadcast(stays, x), left_broadcast(replaced, x)

    def _one_hot(self, x: Array) -> Array:
        return jax.nn.one_hot(x, self.size, dtype=jnp.float32)


def absorbing(keeping: Keeping, size: int, mask: int | None = None) -> Process:
    """The masked process: a symbol is replaced by the mask, which never changes.

    Facts:
        prior: the mask
        paper: Austin et al. 2021, "Structured Denoising Diffusion Models in Discrete State-Spaces", section 3.1,
            absorbing state

    Args:
        keeping: schedule alpha(t).
        size: number K of symbols including the mask, at least 2.
        mask: the mask symbol, in 0 .. K - 1; the last symbol if None.

    Raises:
        ValueError: if size is below 2, or mask is not a symbol.
    """
    _check_size("absorbing", size)
    mask = size - 1 if mask is None else mask
    if not 0 <= mask < size:
        raise ValueError(f"absorbing: mask = {mask}. Valid: a symbol, 0 .. {size - 1}")
    return _process(keeping, np.eye(1, size, mask)[0], mask)


def uniform(keeping: Keeping, size: int) -> Process:
    """The uniform process: a symbol is replaced by any of the K symbols, including itself, with equal probability.

    Facts:
        prior: uniform
        paper: Hoogeboom et al. 2021, "Argmax Flows and Multinomial Diffusion", eq. 11; Austin et al. 2021, section 3.1

    Args:
        keeping: schedule alpha(t).
        size: number K of symbols, at least 2.

    Raises:
        ValueError: if size is below 2.
    """
    _check_size("uniform", size)
    return _process(keeping, np.full(size, 1 / size), None)


def mixture(keeping: Keeping, prior: ArrayLike) -> Process:
    """A process in which a symbol is replaced by a draw from any prior, such as the symbol frequencies of the data.

    Args:
        keeping: schedule alpha(t).
        prior: `[K]` probabilities, which sum to 1; K at least 2.

    Raises:
        ValueError: if prior is not a vector of probabilities.
    """
    shares = np.asarray(prior, np.float64)
    if shares.ndim != 1:
        raise ValueError(f"mixture: prior has the shape {shares.shape}. Valid: [K], a probability for each symbol")
    _check_size("mixture", len(shares))
    if not (np.all(shares >= 0) and math.isclose(shares.sum(), 1, abs_tol=1e-5)):
        raise ValueError(
            f"mixture: prior sums to {shares.sum():g}, and its smallest entry is {shares.min():g}. Valid: "
            "probabilities that sum to 1"
        )
    shares = shares / shares.sum()
    only = int(np.argmax(shares))
    return _process(keeping, shares, only if shares[only] == 1 else None)


def over_positions(terms: Array) -> Array:
    """The sum of each example's terms, float `[B, ...]`, over all axes but the first: `[B]`."""
    return jnp.sum(flattened(terms), -1)


def check_symbols(process: Symbols, x: Array | np.ndarray, what: str) -> None:
    """Refuses anything but an array of the process's symbols.

    Raises:
        TypeError: if x is not an array of integers.
        ValueError: if a symbol is out of range; for traced arrays only the type is checked.
    """
    if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer)):
        raise TypeError(
            f"{what} must be an array of whole numbers, symbols 0 .. {process.size - 1}; got {described(x)}"
        )
    if not isinstance(x, Tracer) and x.size:
        values = np.asarray(x)  # by NumPy: jnp.min of a constant would be traced inside a traced function
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= process.size:
            raise ValueError(f"{what} has symbols {low} .. {high}. Valid: 0 .. {process.size - 1}")


def _process(keeping: Keeping, prior: np.ndarray, mask: int | None) -> Process:
    require(keeping, Keeping, "keeping", "a schedule such as discrete.linear()")
    return Process(keeping, prior, mask)


def _check_size(name: str, size: int) -> None:
    if not is_count(size) or size < 2:
        raise ValueError(f"{name}: {size} symbols. Valid: at least 2")
