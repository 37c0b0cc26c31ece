"""Transport under continuous conditions, such as text features or an angle.

No two examples have equal continuous conditions, so transport between equal conditions would change no pair. A cost on
the distance of conditions lets examples with nearby conditions exchange their noise. The larger the weight of this
cost, the closer the noise given a condition is to the prior.
"""

__all__ = ["ConditionDistance", "condition_weight", "conditional_optimal_transport", "cosine", "squared"]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.matrices import matmul
from diffusion.arrays.parameters import traced
from diffusion.objectives.couplings.transport import Cost, Coupling, assignment, in_blocks, within_conditions
from diffusion.package import public

ConditionDistance = Callable[[Array, Array], Array]
"""(a `[n, D]`, b `[m, D]`) -> the distance of each pair of conditions `[n, m]`, zero for equal ones."""


def conditional_optimal_transport(
    ratio: float, block: int = 64, distance: ConditionDistance | None = None, cost: Cost | None = None
) -> Coupling:
    """Minibatch optimal transport with an added cost for pairs of different conditions.

        sigma = argmin sum_i |x_i - e_sigma(i)|^2 + w d(c_i, c_sigma(i))

    within blocks. The weight w is set so that a share `ratio` of all possible pairs costs no more than the drawn pair,
    see `condition_weight`. A small ratio keeps the noise of a condition closer to the prior, and a large ratio gives
    straighter paths; a ratio of 1 / block would change no pair. Integer or boolean leaves of the condition, such as
    classes, must be equal in a pair, as in `couplings.optimal_transport`.

    Facts:
        paper: Cheng and Schwing 2025, "The Curse of Conditions: Analyzing and Improving Optimal Transport for
            Conditional Flow-Based Generation"

    Args:
        ratio: share r of the paper, in (1 / block, 1]; in the authors' code 0.05 for points in the plane, 0.2 for
            ImageNet.
        block: number of examples that are matched among themselves, >= 2; the work grows as its cube.
        distance: distance of two conditions, whose floating-point leaves are concatenated to one vector; `squared` if
            None. The authors use `cosine` for CLIP features.
        cost: the cost of a pair; the squared distance if None.

    Raises:
        ValueError: if ratio or block is out of range, or, when called, if block does not divide the batch.
    """
    between = squared if distance is None else distance

    def match(keys, x, e, condition):
        if cost is None:
            x, flat = x.reshape(block, -1), e.reshape(block, -1)
            # Less |x|^2, which is the same for all noises of a row.
            costs = jnp.sum(flat**2, -1) - 2 * matmul(x, flat.T)
        else:
            costs = cost(x, e)
        if condition is not None:
            exact, continuous = _parts(condition, block)
            costs = within_conditions(costs, exact or None)
            if continuous is not None:
                apart = between(continuous, continuous)
                costs = costs + _weighted(condition_weight(costs, apart, ratio), apart)
        return e[assignment(costs)], jnp.zeros([])

    couple = in_blocks("conditional_optimal_transport", block, match)
    if not traced(ratio) and not 1 / block < ratio <= 1:
        raise ValueError(
            f"conditional_optimal_transport: ratio = {ratio} must be above 1 / block = {1 / block:.3g} and at most 1; "
            "1 / block is the share of the drawn pairs among all pairs"
        )
    return Coupling(lambda *batch: couple(*batch)[0], block, condition="seen")


def condition_weight(costs: Array, apart: Array, ratio: float) -> Array:
    """`[]` the weight w >= 0 at which a share `ratio` of all pairs costs no more than the drawn pair.

        share(w) = mean_ij [M_ij + w C_ij <= M_ii] = ratio

    The share falls as w grows, since a pair counts while w <= (M_ii - M_ij) / C_ij. The weight is a quantile of these
    quotients, so that the share equals the ratio up to one pair; the authors find it by bisection. The weight is 0 if
    no weight gives so large a share, and infinite if the pairs with C_ij = 0 already exceed it.

    Cheng and Schwing 2025, "The Curse of Conditions: Analyzing and Improving Optimal Transport for Conditional
    Flow-Based Generation".

    Args:
        costs: `[n, n]` costs M of data i and noise j, drawn as pairs i = j; adding a constant to a row changes nothing.
        apart: `[n, n]` distances C >= 0 of the conditions, zero for equal ones.
        ratio: share of the n^2 pairs, in (0, 1].
    """
    gain = jnp.diagonal(costs)[:, None] - costs
    equal = jnp.where(gain >= 0, jnp.inf, -jnp.inf)
    last = jnp.sort(jnp.where(apart > 0, gain / jnp.where(apart > 0, apart, 1), equal).ravel())
    share = ratio * costs.size
    number = jnp.maximum(jnp.round(share), 1).astype(int) if traced(ratio) else max(round(share), 1)
    return jnp.maximum(last[-number], 0)


def squared(a: Array, b: Array) -> Array:
    """The squared distance |a_i - b_j|^2 of each two conditions.

    Args:
        a: conditions `[n, D]`, float.
        b: conditions `[m, D]`, float.

    Returns:
        `[n, m]`, >= 0.
    """
    return jnp.sum((a[:, None] - b[None]) ** 2, -1)


def cosine(a: Array, b: Array) -> Array:
    """The cosine distance 1 - cos(a_i, b_j) of each two conditions.

    Args:
        a: conditions `[n, D]`, float.
        b: conditions `[m, D]`, float.

    Returns:
        `[n, m]` in [0, 2]: exactly 0 for equal conditions; 1 if one of two different ones is zero.
    """
    unit = lambda v: v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), jnp.finfo(v.dtype).tiny)
    apart = 1 - matmul(unit(a), unit(b).T)
    return jnp.where((a[:, None] == b[None]).all(-1), 0, jnp.maximum(apart, 0))


def _weighted(weight: Array, apart: Array) -> Array:
    """weight * apart, where 0 times an infinite weight is 0, because equal conditions cost nothing."""
    return jnp.where(apart > 0, weight * apart, 0)


def _parts(condition: Any, size: int) -> tuple[list[Array], Array | None]:
    """The leaves that must be equal, and the other leaves as one vector for each example `[n, D]`."""
    leaves = jax.tree.leaves(condition)
    inexact = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    floats = [leaf.reshape(size, -1).astype(jnp.float32) for leaf, one in zip(leaves, inexact) if one]
    return [leaf for leaf, one in zip(leaves, inexact) if not one], jnp.concatenate(floats, -1) if floats else None


public.declare(__name__)
