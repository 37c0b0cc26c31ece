"""Processes that replace symbols: each keeps its value with probability alpha(t), and else is drawn from a prior.

    q(x_t | x_0) = alpha_t 1[x_t = x_0] + (1 - alpha_t) pi(x_t)

for each position by itself. The prior pi of a masked process is one symbol; of a uniform process all are equally
likely. Everything below costs O(K) a position: no matrix of K x K is made.
"""

import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.arrays.arguments import described, require
from diffusion.discrete.keeping import Keeping
from diffusion.schedules import left_broadcast


class Symbols(Protocol):
    """A value with a number of symbols."""

    @property
    def size(self) -> int: ...


class Process(NamedTuple):
    """A process on int32 arrays `[B, ...]` of symbols 0 .. K - 1.

    Attributes:
        keeping: the schedule alpha(t).
        prior: `[K]` probabilities of the symbol that replaces another; the law of x_1 at each position.
        mask: the symbol that stands for "not known", where the prior is that symbol alone; None otherwise.
    """

    keeping: Keeping
    prior: np.ndarray
    mask: int | None

    @property
    def size(self) -> int:
        """The number K of symbols, the mask among them."""
        return len(self.prior)

    def marginal(self, x0: Array, t: ArrayLike) -> Array:
        """q(x_t | x_0): float32 `[B, ..., K]`, of symbols x0 `[B, ...]` and times t, `[]` or `[B]`."""
        alpha, replaced = self._shares(t, x0)
        return alpha[..., None] * self._one_hot(x0) + replaced[..., None] * jnp.asarray(self.prior)

    def masked(self, x0: Array, t: ArrayLike) -> Array:
        """The probability that a symbol of a masked process is the mask at time t: float32, of the shape of x0."""
        return jnp.broadcast_to(left_broadcast(self.keeping.replaced(t), x0), x0.shape)

    def likelihood(self, x_t: Array, t: ArrayLike) -> Array:
        """q(x_t | x_0 = a) of each symbol a: float32 `[B, ..., K]`, of symbols x_t `[B, ...]`."""
        here = self._one_hot(x_t)
        alpha, replaced = self._shares(t, here)
        return alpha * here + replaced * self._prior_of(x_t)

    def transition(self, x_s: Array, s: ArrayLike, t: ArrayLike) -> Array:
        """q(x_t | x_s) for s < t < 1 or s < t = 1: float32 `[B, ..., K]`, of symbols x_s `[B, ...]`.

        alpha_t / alpha_s 1[x_t = x_s] + (1 - alpha_t / alpha_s) pi(x_t)
        """
        alpha, replaced = self._shares_between(s, t, x_s)
        return alpha[..., None] * self._one_hot(x_s) + replaced[..., None] * jnp.asarray(self.prior)

    def posterior(self, x_t: Array, x0: Array, t: ArrayLike, s: ArrayLike) -> Array:
        """The mean over x_0 of q(x_s | x_t, x_0), s < t: how a step goes back from x_t.

            q(b | z, a) = q(x_t = z | x_s = b) q(x_s = b | x_0 = a) / q(x_t = z | x_0 = a)

        Args:
            x_t: int `[B, ...]` symbols at time t.
            x0: float `[B, ..., K]` probabilities of x_0, from a network, or of known data (one-hot).
            t: times in (0, 1], `[]` or `[B]`.
            s: times in [0, t), `[]` or `[B]`.

        Returns:
            float32 `[B, ..., K]` probabilities of x_s. A symbol that the prior does not have stays, at t = 1 too:
            it is then a given part of the sample.

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
        """The concrete score p_t(y) / p_t(x_t) of all symbols y, by the law of x_0 given x_t.

            sum_a p(a | x_t) q_t(y | a) / q_t(x_t | a)

        At a symbol that the prior does not have, x_0 = x_t is certain and says nothing of the ratios: the sum has that
        term alone, and no rate reads it, since pi(x_t) = 0.

        Args:
            x_t: int `[B, ...]` symbols at time t.
            x0: float `[B, ..., K]` probabilities of x_0 given x_t.
            t: times in (0, 1], `[]` or `[B]`.

        Returns:
            float32 `[B, ..., K]`; 1 at y = x_t.

        The papers: Meng et al. 2022, "Concrete Score Matching"; Lou et al. 2024, "Discrete Diffusion Modeling by
        Estimating the Ratios of the Data Distribution", section 3.
        """
        weights, total = self._weights(x_t, x0, t)
        alpha, replaced = self._shares(t, x0)
        ratios = alpha * weights + replaced * jnp.asarray(self.prior) * total
        return jnp.where(self._one_hot(x_t) > 0, 1.0, ratios)

    def x0_of_ratios(self, x_t: Array, ratios: Array, t: ArrayLike) -> Array:
        """The law of x_0 given x_t that has these ratios: the inverse of `ratios`.

            w(a) = (ratios(a) - (1 - alpha) pi(a) sum ratios) / alpha,    p(a | x_t) = w(a) q_t(x_t | a)

        Args:
            x_t: int `[B, ...]` symbols at time t.
            ratios: float `[B, ..., K]`, 1 at y = x_t.
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

        At t = 1 they are finite for masks, and infinite for a process whose prior has other symbols than x_t.

        Args:
            x_t: int `[B, ...]` symbols at time t.
            x0: float `[B, ..., K]` probabilities of x_0 given x_t.
            t: times in (0, 1], `[]` or `[B]`.

        Returns:
            float32 `[B, ..., K]`, jumps in a unit of time.

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
        """The rates of the process itself from each symbol y to x_t, 0 at y = x_t: float32 `[B, ..., K]`.

        beta(t) pi(x_t)
        """
        here = self._one_hot(x_t)
        return jnp.where(here > 0, 0.0, left_broadcast(self.keeping.rate(t), here) * self._prior_of(x_t))

    def rates_from(self, x_t: Array, t: ArrayLike) -> Array:
        """The rates of the process itself from x_t to each symbol y, 0 at y = x_t: float32 `[B, ..., K]`.

        beta(t) pi(y)
        """
        here = self._one_hot(x_t)
        return jnp.where(here > 0, 0.0, left_broadcast(self.keeping.rate(t), here) * jnp.asarray(self.prior))

    def _weights(self, x_t: Array, x0: Array, t: ArrayLike) -> tuple[Array, Array]:
        """p(a) / q_t(x_t | a) of each a `[B, ..., K]`, and their sum over a.

        At a symbol that the prior does not have, x_0 = x_t is certain: all of p is taken to be there.
        """
        likelihood = self.likelihood(x_t, t)
        known = jnp.where(self._prior_of(x_t) > 0, x0, self._one_hot(x_t))
        weights = known / jnp.where(likelihood > 0, likelihood, 1.0)
        return weights, jnp.sum(weights, -1, keepdims=True)

    def _prior_of(self, x_t: Array) -> Array:
        """pi(x_t): float32 `[B, ..., 1]`."""
        return jnp.asarray(self.prior)[x_t][..., None]

    def _shares(self, t: ArrayLike, x: Array) -> tuple[Array, Array]:
        """alpha_t and 1 - alpha_t, with axes of one that multiply x."""
        return left_broadcast(self.keeping.alpha(t), x), left_broadcast(self.keeping.replaced(t), x)

    def _shares_between(self, s: ArrayLike, t: ArrayLike, x: Array) -> tuple[Array, Array]:
        """alpha_t / alpha_s and 1 - alpha_t / alpha_s, with axes of one that multiply x."""
        (alpha_s, replaced_s), (alpha_t, replaced_t) = self._shares(s, x), self._shares(t, x)
        return alpha_t / alpha_s, (replaced_t - replaced_s) / alpha_s

    def _one_hot(self, x: Array) -> Array:
        return jax.nn.one_hot(x, self.size, dtype=jnp.float32)


def absorbing(keeping: Keeping, size: int, mask: int | None = None) -> Process:
    """Masks: a symbol is replaced by the mask, and stays so.

    Facts:
        prior: the mask
        paper: Austin et al. 2021, "Structured Denoising Diffusion Models in Discrete State-Spaces", section 3.1,
            absorbing state

    Args:
        keeping: schedule alpha(t).
        size: number K of symbols with the mask, at least 2.
        mask: the symbol that is the mask, 0 .. K - 1; None: the last.

    Raises:
        ValueError: if there are fewer than two symbols, or the mask is none of them.
    """
    _check_size("absorbing", size)
    mask = size - 1 if mask is None else mask
    if not 0 <= mask < size:
        raise ValueError(f"absorbing: mask = {mask}. Valid: a symbol, 0 .. {size - 1}")
    return _process(keeping, np.eye(1, size, mask)[0], mask)


def uniform(keeping: Keeping, size: int) -> Process:
    """A symbol is replaced by any of the K, itself too, all equally likely.

    Facts:
        prior: uniform
        paper: Hoogeboom et al. 2021, "Argmax Flows and Multinomial Diffusion", eq. 11; Austin et al. 2021, section 3.1

    Args:
        keeping: schedule alpha(t).
        size: number K of symbols, at least 2.

    Raises:
        ValueError: if there are fewer than two symbols.
    """
    _check_size("uniform", size)
    return _process(keeping, np.full(size, 1 / size), None)


def mixture(keeping: Keeping, prior: ArrayLike) -> Process:
    """A symbol is replaced by a draw from any prior, for example from the frequencies of the data.

    Args:
        keeping: schedule alpha(t).
        prior: `[K]` probabilities, of sum 1; K at least 2.

    Raises:
        ValueError: if the numbers are no probabilities.
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
    return jnp.sum(terms.reshape(len(terms), -1), -1)


def check_symbols(process: Symbols, x: Array, what: str) -> None:
    """Refuses what is no array of the process's symbols.

    Raises:
        TypeError: if x is not an array of whole numbers.
        ValueError: if a symbol is out of range; of traced arrays only the type is known.
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
    if size < 2:
        raise ValueError(f"{name}: {size} symbols. Valid: at least 2")
