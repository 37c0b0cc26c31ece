"""Couplings: which noise goes with which data.

A coupling is a function (keys `[B]`, x0 `[B, ...]`, eps `[B, ...]`) -> eps re-paired. The keys serve pairs that are
drawn at random, and nothing else. With any coupling but `independent`, E[eps | x_t] is no longer -sigma times the
score, so samplers that read a score do not apply to a network that is trained with it.

Transport plans are solved in fixed blocks of consecutive examples of the global batch, so that the pairs do not
depend on the number of devices or of micro-batches, as long as each holds whole blocks. Every x0 keeps its position
and its condition.
"""

__all__ = [
    "Cost",
    "Coupling",
    "entropic_plan",
    "independent",
    "marginal_error",
    "optimal_transport",
    "schroedinger_bridge",
    "sinkhorn",
]

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from diffusion import public


@dataclasses.dataclass(frozen=True)
class Coupling:
    """Which noise goes with which data; called as `pair`.

    Attributes:
        pair: (keys `[B]`, x0 `[B, ...]`, eps `[B, ...]`) -> eps re-paired.
        block: examples are paired within the same so many consecutive ones, which divide the batch.
        independent: whether the noise is independent of the data, so that a trained network determines the score.
    """

    pair: Callable[[Array, Array, Array], Array]
    block: int = 1
    independent: bool = False

    def __call__(self, keys: Array, x0: Array, eps: Array) -> Array:
        return self.pair(keys, x0, eps)


Cost = Callable[[Array, Array], Array]
"""(x `[n, ...]`, e `[m, ...]`) -> the cost of each pair `[n, m]`, such as `manifolds.geodesic_cost(manifold)`."""


def independent() -> Coupling:
    """Each example keeps the noise that its own key drew.

    Facts:
        paper: Lipman et al. 2023, "Flow Matching for Generative Modeling"; Ho et al. 2020
    """
    return Coupling(lambda keys, x0, eps: eps, independent=True)


def optimal_transport(block: int = 64, cost: Cost | None = None) -> Coupling:
    """Exact minibatch optimal transport: the pairing within a block that has the least total cost.

    Facts:
        paper: Pooladian et al. 2023, "Multisample Flow Matching", section 3; Tong et al. 2024, "Improving and
            Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", section 3.2.3

    Args:
        block: number of examples that are matched among themselves, >= 2; the work grows as its cube.
        cost: of a pair; the squared distance if None.

    Raises:
        ValueError: if block < 2, or, when called, if block does not divide the batch.
    """

    import optax  # imported here: nothing else in the mathematics needs it

    def match(keys, x, e):
        # |x - e|^2 = |x|^2 + |e|^2 - 2 x.e, of which only the last term depends on the pairing.
        costs = -2 * x.reshape(block, -1) @ e.reshape(block, -1).T if cost is None else cost(x, e)
        rows, columns = optax.assignment.hungarian_algorithm(costs)
        return e[jnp.zeros(block, columns.dtype).at[rows].set(columns)], jnp.zeros([])

    couple = _in_blocks("optimal_transport", block, match)
    return Coupling(lambda keys, x0, eps: couple(keys, x0, eps)[0], block)


def sinkhorn(
    reg: float, block: int = 64, tolerance: float = 1e-3, iterations: int = 1000, cost: Cost | None = None
) -> Coupling:
    """Entropic minibatch optimal transport: each example draws its noise from its row of the plan.

        eps_i = e_j with probability n pi_ij,    pi = argmin sum_ij pi_ij |x_i - e_j|^2 + reg KL(pi, 1 / n^2)

    in blocks of n examples, with every row and column of pi summing to 1 / n. A noise may be drawn twice, or not at
    all, as in the authors' code. That code also draws the x_i with replacement; here each x_i is used once. The limit
    for reg -> 0 is `optimal_transport`, that for reg -> infinity `independent` pairs.

    Facts:
        paper: Cuturi 2013, "Sinkhorn Distances"; Pooladian et al. 2023, "Multisample Flow Matching", section 3; Tong et
            al. 2024, "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport",
            section 3.2.3

    Args:
        reg: weight of the entropy, > 0, in units of squared distance (0.05 in the authors' code, for data in the
            plane); in D dimensions distances are about D times larger.
        block: number of examples that are matched among themselves, >= 2.
        tolerance: relative error of the columns' sums at which the iteration stops.
        iterations: number of iterations at which it stops at the latest; a small reg needs more, about in proportion
            to the squared distances over reg.
        cost: of a pair, in place of |x_i - e_j|^2; None for that.

    Raises:
        ValueError: if reg <= 0, block < 2, or, when called, if block does not divide the batch; outside of `jit` also
            if the iteration ends before the tolerance is reached. A compiled program cannot raise: try the arguments on
            a batch first, or look at `marginal_error` of the `entropic_plan`.
    """
    if not reg > 0:
        raise ValueError(f"sinkhorn: reg = {reg} must be positive; optimal_transport is its limit at 0")

    def draw(keys, x, e):
        log_plan = entropic_plan(x, e, reg, tolerance, iterations, cost)
        return e[jax.vmap(jax.random.categorical)(keys, log_plan)], marginal_error(log_plan)

    couple = _in_blocks("sinkhorn", block, draw)

    def checked(keys, x0, eps):
        paired, error = couple(keys, x0, eps)
        if not isinstance(error, Tracer) and not error <= tolerance:
            raise ValueError(
                f"sinkhorn: after {iterations} iterations a column of the plan is off by {error:.2g} of "
                f"its sum, more than tolerance = {tolerance:g}; give more iterations, or a larger reg "
                f"than {reg:g}"
            )
        return paired

    return Coupling(checked, block)


def schroedinger_bridge(sigma: float, block: int = 64, tolerance: float = 1e-3, iterations: int = 1000) -> Coupling:
    """The ends of the Schroedinger bridge whose reference is a Brownian motion of variance sigma^2 t: `sinkhorn`
    with reg = 2 sigma^2.

        pi = argmin KL(pi, exp(-|x - e|^2 / (2 sigma^2)))

    Facts:
        paper: Tong et al. 2024, "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal
            Transport", section 3.2.4

    Args:
        sigma: diffusion of the reference, > 0, in units of the data; that of the objective's bridge.
        block: see `sinkhorn`.
        tolerance: see `sinkhorn`.
        iterations: see `sinkhorn`.

    Raises:
        ValueError: as `sinkhorn` does.
    """
    if not sigma > 0:
        raise ValueError(f"schroedinger_bridge: sigma = {sigma} must be positive")
    return sinkhorn(2 * sigma**2, block, tolerance, iterations)


def marginal_error(log_plan: Array) -> Array:
    """`[]` the largest relative error of the columns' sums of a plan, which is exact in its rows.

    Args:
        log_plan: `[n, n]`, of `entropic_plan`.
    """
    return jnp.max(jnp.abs(log_plan.shape[0] * jnp.exp(jax.nn.logsumexp(log_plan, 0)) - 1))


def entropic_plan(
    x: Array, e: Array, reg: float, tolerance: float = 1e-3, iterations: int = 1000, cost: Cost | None = None
) -> Array:
    """`[n, n]` logarithm of the plan of entropic transport between two sets of n points, by Sinkhorn's iteration.

        log pi_ij = f_i + g_j - |x_i - e_j|^2 / reg,    f and g set in turn so that rows and columns sum to 1 / n

    in logarithms, so that a small reg does not underflow. The rows are exact, the columns within `tolerance`
    unless the iterations end first, which `marginal_error` shows.

    Args:
        x: `[n, ...]` points.
        e: `[n, ...]` points.
        reg: see `sinkhorn`.
        tolerance: see `sinkhorn`.
        iterations: see `sinkhorn`.
        cost: see `sinkhorn`.
    """
    n = x.shape[0]
    if cost is None:
        # The plan does not depend on the means of the two sets; without them, differences keep their digits.
        x, e = (a.reshape(n, -1) - a.reshape(n, -1).mean(0) for a in (x, e))
        scores = 2 * x @ e.T / reg
    else:
        scores = -cost(x, e) / reg
    normalized = lambda scores, axis: scores - jax.nn.logsumexp(scores, axis, keepdims=True) - jnp.log(n)

    def unfinished(carry):
        log_plan, step = carry
        return (marginal_error(log_plan) > tolerance) & (step < iterations)

    def sweep(carry):
        log_plan, step = carry
        return normalized(normalized(log_plan, 0), 1), step + 1

    return jax.lax.while_loop(unfinished, sweep, (normalized(scores, 1), 0))[0]


def _in_blocks(
    name: str, block: int, match: Callable[[Array, Array, Array], tuple[Array, Array]]
) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
    """(keys, x0, eps) -> (eps re-paired, the largest error of a block `[]`), by `match` of `block` consecutive ones."""
    if block < 2:
        raise ValueError(f"{name}: block = {block}; at least 2 examples can be matched")

    def couple(keys, x0, eps):
        batch = x0.shape[0]
        if batch % block:
            raise ValueError(f"{name}: the batch of {batch} is not a whole number of blocks of {block}")
        blocks = lambda a: a.reshape((batch // block, block) + a.shape[1:])
        paired, errors = jax.vmap(match)(blocks(keys), blocks(x0), blocks(eps))
        return paired.reshape(eps.shape), errors.max()

    return couple


public.declare(__name__)
