"""Paths for symbols with distances, such as grey values or codes: noise first moves a symbol to near symbols.

    q(x_t | x_0) = softmax over x_t of -beta(t) d(x_t, x_0),    beta(t) = scale ((1 - t) / t)^power

independently for each position. At t = 1 all symbols are equally likely. As t decreases, the symbols that are far from
x_0 become unlikely first.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require
from diffusion.arrays.parameters import traced
from diffusion.discrete.processes import Process
from diffusion.discrete.rate_processes import AnyProcess, RateProcess
from diffusion.discrete.token_masks import TokenMasks
from diffusion.schedules import left_broadcast
from diffusion.schedules.noise_schedule import as_float


class MetricPath(NamedTuple):
    """A path for int32 arrays `[B, ...]` of symbols, defined by distances between symbols.

    Samples x_t are drawn as for a process. The path works with `discrete_flow_matching` and `metric_flow`, but has no
    posteriors and no bound.

    Attributes:
        distances: `[K, K]` distances d, 0 on the diagonal and > 0 elsewhere.
        scale: factor of beta, > 0.
        power: power of beta, > 0.
    """

    distances: np.ndarray
    scale: float
    power: float

    @property
    def size(self) -> int:
        """The number K of symbols."""
        return len(self.distances)

    @property
    def mask(self) -> None:
        """None: no symbol is a mask."""
        return None

    @property
    def prior(self) -> np.ndarray:
        """The probabilities `[K]` of the symbols at t = 1, which are all equal."""
        return np.full(self.size, 1 / self.size)

    def nearness(self, t: ArrayLike) -> Array:
        """beta(t) `[]` or `[B]` for times t in [0, 1]: 0 at t = 1, infinite at t = 0."""
        t = as_float(t)
        return self.scale * ((1 - t) / t) ** self.power

    def marginal(self, x0: Array, t: ArrayLike) -> Array:
        """q(x_t | x_0): float32 `[B, ..., K]`, for symbols x0 `[B, ...]` and times t, `[]` or `[B]`."""
        return jax.nn.softmax(self._logits(jnp.asarray(self.distances, jnp.float32).T[x0], t))

    def likelihood(self, x_t: Array, t: ArrayLike) -> Array:
        """q(x_t | x_0 = a) for each symbol a: float32 `[B, ..., K]`, for symbols x_t `[B, ...]` and t `[]` or `[B]`."""
        table = jnp.asarray(self.distances, jnp.float32)
        nearness = self.nearness(t)[..., None, None]
        normaliser = jax.nn.logsumexp(jnp.where(table > 0, -nearness * table, 0.0), axis=-2)  # [K] or [B, K]
        logits = self._logits(table[x_t], t)
        between = (1,) * (logits.ndim - normaliser.ndim)
        return jnp.exp(logits - normaliser.reshape(*normaliser.shape[:-1], *between, self.size))

    def velocity(self, x_t: Array, x0: Array, t: ArrayLike) -> Array:
        """The rates, per unit of beta, at which a symbol jumps to each symbol y if x_0 is known.

            q(y | x_0) max(d(x_t, x_0) - d(y, x_0), 0),    which is 0 at y = x_t

        A jump always leads nearer to x_0. Among all rates that generate the path, these have the least kinetic energy.

        Args:
            x_t: int `[B, ...]` symbols at time t.
            x0: int `[B, ...]` symbols of the data.
            t: times in (0, 1], `[]` or `[B]`.

        Returns:
            Rates float32 `[B, ..., K]`, in jumps per unit of beta.
        """
        far = jnp.asarray(self.distances, jnp.float32).T[x0]
        here = jnp.take_along_axis(far, x_t[..., None], -1)
        return jax.nn.softmax(self._logits(far, t)) * jnp.maximum(here - far, 0.0)

    def _logits(self, distances: Array, t: ArrayLike) -> Array:
        """-beta(t) d for distances d; it is 0 at d = 0 for every t, also where beta(t) is infinite."""
        nearness = left_broadcast(self.nearness(t), distances)
        return jnp.where(distances > 0, -nearness * distances, 0.0)


AnyPath = AnyProcess | TokenMasks | MetricPath
"""A process of symbols, or a metric path."""


def check_path(process: Any) -> None:
    """Refuses a value that is not a process of symbols, such as a function of `discrete` that was not called.

    Raises:
        TypeError: if the value is not a process; the message names the value.
    """
    kinds = (Process, RateProcess, TokenMasks, MetricPath)
    require(process, kinds, "process", "a process such as discrete.absorbing(discrete.linear(), 28)")


def metric_path(distances: ArrayLike, scale: float = 3.0, power: float = 1.0) -> MetricPath:
    """The metric path with given distances between symbols.

    Facts:
        prior: uniform
        paper: Shaul et al. 2024, "Flow Matching with General Discrete Paths: A Kinetic-Optimal Perspective", the metric
            paths and their kinetic-optimal velocity; its time is 1 - t

    Args:
        distances: `[K, K]` distances, for example of `line_distances` or `embedded_distances`; they need not be
            symmetric. Row y and column x_0 hold d(y, x_0).
        scale: factor of beta, > 0; with a larger scale, symbols remain near x_0 longer.
        power: power of beta, > 0.

    Raises:
        ValueError: if the matrix is not square, distances are not 0 exactly on the diagonal, or a number is out of
            range.
    """
    table = np.asarray(distances, np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) < 2:
        raise ValueError(f"metric_path: distances have the shape {table.shape}. Valid: [K, K] with K at least 2")
    apart = table[~np.eye(len(table), dtype=bool)]
    if not (np.isfinite(table).all() and np.all(np.diag(table) == 0) and np.all(apart > 0)):
        raise ValueError(
            f"metric_path: distances from {apart.min():g} to {apart.max():g} beside a diagonal of up to "
            f"{np.abs(np.diag(table)).max():g}. Valid: finite, above 0, and 0 on the diagonal"
        )
    for name, value in (("scale", scale), ("power", power)):
        if not traced(value) and not 0 < value < math.inf:
            raise ValueError(f"metric_path: {name} = {value}. Valid: a finite number above 0")
    return MetricPath(table, *(value if traced(value) else float(value) for value in (scale, power)))


def line_distances(size: int, power: float = 2.0) -> np.ndarray:
    """Distances of ordered symbols, (|i - j| / (K - 1))^power, float64 `[K, K]`.

    Args:
        size: number K of symbols, at least 2.
        power: power of the distance, > 0.

    Raises:
        ValueError: if size or power is out of range.
    """
    if size < 2 or not power > 0:
        raise ValueError(f"line_distances: {size} symbols, power = {power}. Valid: at least 2, above 0")
    return (np.abs(np.subtract.outer(np.arange(size), np.arange(size))) / (size - 1)) ** power


def embedded_distances(vectors: ArrayLike, power: float = 2.0) -> np.ndarray:
    """Distances between the vectors of symbols, ||v_i - v_j||^power with mean 1, float64 `[K, K]`.

    Args:
        vectors: float `[K, D]`, a different vector for each symbol, such as the codes of a VQ autoencoder.
        power: power of the distance, > 0.

    Raises:
        ValueError: if vectors have another shape, power is out of range, or two vectors are equal.
    """
    v = np.asarray(vectors, np.float64)
    if v.ndim != 2 or len(v) < 2 or not power > 0:
        raise ValueError(
            f"embedded_distances: vectors of shape {v.shape}, power = {power}. Valid: [K, D] with K at least 2, above 0"
        )
    v = v - v.mean(0)  # the difference of large squares would lose its digits
    squares = np.sum(v**2, 1)
    far = np.sqrt(np.maximum(squares[:, None] + squares - 2 * v @ v.T, 0.0))
    np.fill_diagonal(far, 0.0)
    apart = far[~np.eye(len(v), dtype=bool)]
    if apart.min() <= 1e-7 * apart.max():
        raise ValueError("embedded_distances: two symbols have the same vector. Valid: a vector for each symbol")
    return (far / apart.mean()) ** power / np.mean((apart / apart.mean()) ** power)
