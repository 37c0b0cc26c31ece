"""Couplings by optimal transport between the examples of a block, exact or entropic."""

__all__ = [
    "Cost",
    "Coupling",
    "across_conditions",
    "assignment",
    "entropic_plan",
    "in_blocks",
    "independent",
    "marginal_error",
    "optimal_transport",
    "same_condition",
    "schroedinger_bridge",
    "sinkhorn",
    "within_conditions",
]

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from diffusion.arrays.broadcasting import flattened
from diffusion.arrays.matrices import matmul
from diffusion.arrays.parameters import traced
from diffusion.package import public


@dataclasses.dataclass(frozen=True)
class Coupling:
    """A pairing of noise and data; called as `pair`, with the condition or without one.

    Attributes:
        pair: (keys `[B]`, x0 `[B, ...]`, eps `[B, ...]`) -> eps re-paired; with `condition` = "seen",
            (keys, x0, eps, condition) -> eps re-paired.
        block: number of consecutive examples that are paired among themselves; it divides the batch.
        independent: whether the noise is independent of the data, so that a trained network determines the score.
        condition: treatment of conditional examples. "seen": `pair` receives the condition, a pytree of arrays `[B,
            ...]`, or None. "ignored": `pair` does not receive it. "refused": examples with a condition raise an error.
    """

    pair: Callable[..., Array]
    block: int = 1
    independent: bool = False
    condition: Literal["seen", "ignored", "refused"] = "refused"

    def __post_init__(self) -> None:
        if self.condition not in ("seen", "ignored", "refused"):
            raise ValueError(f'Coupling: condition = {self.condition!r}. Valid: "seen", "ignored" or "refused"')

    def __call__(self, keys: Array, x0: Array, eps: Array, condition: Any = None) -> Array:
        """Pairs the noise of a batch.

        Args:
            keys: `[B]` random keys, one for each example.
            x0: `[B, ...]` data.
            eps: `[B, ...]` noise.
            condition: the data's condition before dropout, a pytree of arrays `[B, ...]`; None if there is none.

        Returns:
            `[B, ...]` noise.

        Raises:
            ValueError: if there is a condition and the coupling refuses conditions.
        """
        if self.condition == "seen":
            return self.pair(keys, x0, eps, condition)
        if self.condition == "refused" and condition is not None:
            raise ValueError(
                "the coupling does not see the condition of the data, so the noise paired with a condition would not "
                'have the distribution that sampling starts from. Valid: a Coupling with condition = "seen", e.g. '
                "couplings.optimal_transport(), or couplings.across_conditions(coupling) for pairs that ignore the "
                "condition"
            )
        return self.pair(keys, x0, eps)


Cost = Callable[[Array, Array], Array]
"""(x `[n, ...]`, e `[m, ...]`) -> the cost of each pair `[n, m]`, such as `manifolds.geodesic_cost(manifold)`."""


def independent() -> Coupling:
    """Independent pairs: each example keeps the noise that its key drew.

    Facts:
        paper: Lipman et al. 2023, "Flow Matching for Generative Modeling"; Ho et al. 2020
    """
    return Coupling(lambda keys, x0, eps: eps, independent=True, condition="ignored")


def across_conditions(coupling: Coupling) -> Coupling:
    """The coupling, applied as if the examples had no conditions.

    Use it if the condition says nothing about x0, or to compare with published results. Otherwise it introduces an
    error: sampling starts from the prior under every condition, but these pairs give each condition another
    distribution of noise.

    Facts:
        paper: Tong et al. 2024, "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal
            Transport", for classes; its error: Cheng and Schwing 2025, "The Curse of Conditions: Analyzing and
            Improving Optimal Transport for Conditional Flow-Based Generation"

    Args:
        coupling: the coupling, e.g. `optimal_transport()`.
    """
    return dataclasses.replace(coupling, pair=lambda keys, x0, eps: coupling(keys, x0, eps), condition="ignored")


def optimal_transport(block: int = 64, cost: Cost | None = None) -> Coupling:
    """Exact minibatch optimal transport: the pairing within a block that has the least total cost.

        sigma = argmin sum_i cost(x_i, e_sigma(i)),    c_sigma(i) = c_i

    over the permutations that preserve the conditions c, so that the noise given a condition follows the prior. An
    example whose condition is unique in its block keeps its noise.

    Facts:
        paper: Pooladian et al. 2023, "Multisample Flow Matching", section 3; Tong et al. 2024, "Improving and
            Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", section 3.2.3; with classes:
            Cheng and Schwing 2025, "The Curse of Conditions: Analyzing and Improving Optimal Transport for Conditional
            Flow-Based Generation"

    Args:
        block: number of examples that are matched among themselves, >= 2; the work grows as its cube.
        cost: the cost of a pair; the squared distance if None.

    Raises:
        ValueError: if block < 2; when called, if block does not divide the batch or the condition has floating-point
            leaves, for which see `conditional_transport`.
    """

    def match(keys, x, e, condition):
        # |x - e|^2 = |x|^2 + |e|^2 - 2 x.e, of which only the last term depends on the pairing.
        costs = -2 * matmul(x.reshape(block, -1), e.reshape(block, -1).T) if cost is None else cost(x, e)
        return e[assignment(within_conditions(costs, condition))], jnp.zeros([])

    couple = in_blocks("optimal_transport", block, match)
    return Coupling(lambda *batch: couple(*batch)[0], block, condition="seen")


def sinkhorn(
    reg: float, block: int = 64, tolerance: float = 1e-3, iterations: int = 1000, cost: Cost | None = None
) -> Coupling:
    """Entropic minibatch optimal transport: each example draws its noise from its row of the plan.

        eps_i = e_j with probability n pi_ij,    pi = argmin sum_ij pi_ij |x_i - e_j|^2 + reg KL(pi, 1 / n^2)

    in blocks of n examples, with every row and column of pi summing to 1 / n. A noise may be drawn twice, or not at
    all, as in the authors' code. That code also draws the x_i with replacement; here each x_i is used once. The limit
    reg -> 0 is `optimal_transport`, and the limit reg -> infinity gives independent pairs. As in `optimal_transport`,
    only equal conditions are paired: pi_ij = 0 for unequal ones.

    Facts:
        paper: Cuturi 2013, "Sinkhorn Distances"; Pooladian et al. 2023, "Multisample Flow Matching", section 3; Tong et
            al. 2024, "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport",
            section 3.2.3

    Args:
        reg: weight of the entropy, > 0, in units of squared distance (0.05 in the authors' code, for data in the
            plane); in D dimensions distances are about D times larger.
        block: number of examples that are matched among themselves, >= 2.
        tolerance: relative error of the column sums at which the iteration stops.
        iterations: largest number of iterations; it must grow about in proportion to the squared distances divided by
            reg.
        cost: the cost of a pair; |x_i - e_j|^2 if None.

    Raises:
        ValueError: if reg <= 0 or block < 2; when called, if block does not divide the batch or the condition has
            floating-point leaves; outside of `jit` also if the iteration ends before the tolerance is reached. A
            compiled program cannot raise: try the arguments on a batch first, or look at `marginal_error` of the
            `entropic_plan`.
    """
    if not traced(reg) and not reg > 0:
        raise ValueError(f"sinkhorn: reg = {reg} must be positive; for the limit at 0 use optimal_transport")

    def draw(keys, x, e, condition):
        log_plan = entropic_plan(x, e, reg, tolerance, iterations, cost, condition)
        return e[jax.vmap(jax.random.categorical)(keys, log_plan)], marginal_error(log_plan)

    couple = in_blocks("sinkhorn", block, draw)

    def checked(keys, x0, eps, condition):
        paired, error = couple(keys, x0, eps, condition)
        if not isinstance(error, Tracer) and not error <= tolerance:
            raise ValueError(
                f"sinkhorn: after {iterations} iterations a column of the plan differs from its sum by {error:.2g}, "
                f"more than tolerance = {tolerance:g}; use more iterations, or a reg larger than {reg:g}"
            )
        return paired

    return Coupling(checked, block, condition="seen")


def schroedinger_bridge(sigma: float, block: int = 64, tolerance: float = 1e-3, iterations: int = 1000) -> Coupling:
    """The ends of the Schroedinger bridge whose reference is a Brownian motion of variance sigma^2 t: `sinkhorn`
    with reg = 2 sigma^2.

        pi = argmin KL(pi, exp(-|x - e|^2 / (2 sigma^2)))

    Facts:
        paper: Tong et al. 2024, "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal
            Transport", section 3.2.4

    Args:
        sigma: diffusion of the reference, > 0, in units of the data, as in the objective's bridge.
        block: see `sinkhorn`.
        tolerance: see `sinkhorn`.
        iterations: see `sinkhorn`.

    Raises:
        ValueError: if sigma is not positive, and under the conditions of `sinkhorn`.
    """
    if not traced(sigma) and not sigma > 0:
        raise ValueError(f"schroedinger_bridge: sigma = {sigma} must be positive")
    return sinkhorn(2 * sigma**2, block, tolerance, iterations)


def marginal_error(log_plan: Array) -> Array:
    """`[]` the largest relative error of the column sums of a plan; its row sums are exact.

    Args:
        log_plan: `[n, n]` logarithm of the plan, from `entropic_plan`.
    """
    return jnp.max(jnp.abs(log_plan.shape[0] * jnp.exp(jax.nn.logsumexp(log_plan, 0)) - 1))


def entropic_plan(
    x: Array,
    e: Array,
    reg: float,
    tolerance: float = 1e-3,
    iterations: int = 1000,
    cost: Cost | None = None,
    condition: Any = None,
) -> Array:
    """`[n, n]` logarithm of the plan of entropic transport between two sets of n points, by Sinkhorn's iteration.

        log pi_ij = f_i + g_j - |x_i - e_j|^2 / reg,    f and g set in turn so that rows and columns sum to 1 / n

    computed in logarithms, so that a small reg does not underflow. The row sums are exact. The column sums are within
    `tolerance`, unless the iterations end first, which `marginal_error` shows.

    Args:
        x: `[n, ...]` points.
        e: `[n, ...]` points.
        reg: see `sinkhorn`.
        tolerance: see `sinkhorn`.
        iterations: see `sinkhorn`.
        cost: see `sinkhorn`.
        condition: pytree of integers `[n, ...]`, one for each example, or None; the plan is zero between unequal ones.
    """
    n = x.shape[0]
    if cost is None:
        # The plan does not depend on the means of the two sets; subtracting them preserves the digits of differences.
        x, e = (a.reshape(n, -1) - a.reshape(n, -1).mean(0) for a in (x, e))
        scores = 2 * matmul(x, e.T) / reg
    else:
        scores = -cost(x, e) / reg
    if condition is not None:
        scores = jnp.where(same_condition(condition), scores, -jnp.inf)
    normalized = lambda scores, axis: scores - jax.nn.logsumexp(scores, axis, keepdims=True) - jnp.log(n)

    def unfinished(carry):
        log_plan, step = carry
        return (marginal_error(log_plan) > tolerance) & (step < iterations)

    def sweep(carry):
        log_plan, step = carry
        return normalized(normalized(log_plan, 0), 1), step + 1

    return jax.lax.while_loop(unfinished, sweep, (normalized(scores, 1), 0))[0]


def within_conditions(costs: Array, condition: Any) -> Array:
    """`[n, n]` the costs of pairs, infinite between unequal conditions, and unchanged if there is no condition.

    Args:
        costs: `[n, n]` costs.
        condition: pytree of arrays `[n, ...]`, as in `same_condition`, or None.

    Raises:
        ValueError: under the conditions of `same_condition`.
    """
    return costs if condition is None else jnp.where(same_condition(condition), costs, jnp.inf)


def same_condition(condition: Any) -> Array:
    """`[n, n]` whether two examples have equal conditions, in all leaves.

    Args:
        condition: pytree of arrays `[n, ...]` of integers or booleans.

    Raises:
        ValueError: if a leaf has floating-point numbers, of which no two are equal, or not one row per example.
    """
    leaves = jax.tree.leaves(condition)
    if any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves):
        raise ValueError(
            "this coupling pairs examples of equal conditions, and this condition is floating-point, where no two are "
            "equal. Valid: couplings.conditional_optimal_transport(ratio), or couplings.across_conditions(coupling) "
            "for pairs that ignore the condition"
        )
    same = [(flat[:, None] == flat[None]).all(-1) for flat in map(flattened, leaves)]
    return jnp.stack(same).all(0)


def assignment(costs: Array) -> Array:
    """`[n]` the column of each row in the assignment of least total cost; an infinite cost forbids a pair.

    Args:
        costs: `[n, n]` costs, with at least one assignment of finite total.
    """
    import optax  # imported here: nothing else in the mathematics needs it

    with jax.numpy_dtype_promotion("standard"):  # optax needs it where x64 is on
        rows, columns = optax.assignment.hungarian_algorithm(costs)
    return jnp.zeros(costs.shape[0], columns.dtype).at[rows].set(columns)


def in_blocks(
    name: str, block: int, match: Callable[[Array, Array, Array, Any], tuple[Array, Array]]
) -> Callable[[Array, Array, Array, Any], tuple[Array, Array]]:
    """A coupling that matches each block of consecutive examples of a batch by itself.

    Args:
        name: the coupling's name, for errors.
        block: number of examples, >= 2.
        match: (keys `[block]`, x0, eps, condition) -> (eps re-paired, an error `[]`), of a block.

    Returns:
        (keys `[B]`, x0, eps, condition) -> (eps re-paired, the largest error of a block `[]`).

    Raises:
        ValueError: if block < 2, or, when called, if it does not divide the batch.
    """
    if block < 2:
        raise ValueError(f"{name}: block = {block} must be at least 2, because single examples cannot be matched")

    def couple(keys, x0, eps, condition):
        batch = x0.shape[0]
        if batch % block:
            raise ValueError(f"{name}: the batch of {batch} examples is not a multiple of block = {block}")
        blocks = lambda a: a.reshape((batch // block, block) + a.shape[1:])
        paired, errors = jax.vmap(match)(*jax.tree.map(blocks, (keys, x0, eps, condition)))
        return paired.reshape(eps.shape), errors.max()

    return couple


public.declare(__name__)
