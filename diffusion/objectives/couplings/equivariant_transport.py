"""Couplings of sets of points, whose order or orientation carries no meaning.

The distribution of the noise is invariant under permutations and rotations, so any permuted or rotated noise is an
equally valid partner; the one nearest to the data gives the straightest paths. The noise of a pair is then no longer
distributed as N(0, I); only its orbit is, the set of points up to order and orientation. The network must therefore be
equivariant under the transformations that the coupling uses (permutations, rotations or both). With any other network,
training and sampling would start from different distributions.
"""

__all__ = ["aligned", "equivariant_optimal_transport", "matched", "rotated", "turn"]

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.matrices import matmul
from diffusion.objectives.couplings.transport import Coupling, assignment, in_blocks, within_conditions
from diffusion.package import public

ROUNDS = 3  # number of alternations of matching and rotation; each can only shorten the distance


def aligned(permutation: bool = True, rotation: bool = True) -> Coupling:
    """Each example keeps its noise, permuted and rotated to be nearest to the data.

        eps -> P eps R,    P, R = argmin |x_0 - P eps R|^2 over permutations P and rotations R

    If only a permutation or only a rotation is allowed, it is the optimal one. With both, three rounds alternate
    between them, which never increases the distance but may miss the optimum.

    Facts:
        paper: Klein et al. 2023, "Equivariant flow matching"; Song et al. 2023, "Equivariant Flow Matching with Hybrid
            Probability Transport for 3D Molecule Generation"

    Args:
        permutation: whether points may be permuted; the network must then be equivariant under permutations.
        rotation: whether the noise may be rotated about the origin, where both sets should be centred; the network must
            then be equivariant under rotations.

    Raises:
        ValueError: if both are False; when called, if examples are not sets of points `[N, D]`.
    """
    _check(permutation, rotation)

    def pair(keys, x0, eps):
        _check_points(x0)
        return jax.vmap(lambda x, e: _nearest(x, e, permutation, rotation))(x0, eps)

    # Under each condition only the orbit of the noise is distributed as that of N(0, I), and the noise depends on the
    # data.
    return Coupling(pair, condition="ignored")


def equivariant_optimal_transport(block: int = 16, permutation: bool = True, rotation: bool = True) -> Coupling:
    """Minibatch optimal transport, where the cost of a pair is the least over permutations and rotations.

    As in `couplings.optimal_transport`, only examples of equal conditions are paired.

    Facts:
        paper: Klein et al. 2023, "Equivariant flow matching"

    Args:
        block: number of examples that are matched among themselves, >= 2; the block^2 possible pairs are all aligned.
        permutation: whether points may be permuted, see `aligned`.
        rotation: whether the noise may be rotated, see `aligned`.

    Raises:
        ValueError: under the conditions of `aligned`, or if block < 2; when called, if block does not divide the batch
            or the condition has floating-point leaves.
    """
    _check(permutation, rotation)

    def match(keys, x, e, condition):
        nearest = jax.vmap(lambda x: jax.vmap(lambda e: _nearest(x, e, permutation, rotation))(e))(x)
        costs = jnp.sum((nearest - x[:, None]) ** 2, axis=(2, 3))
        return nearest[jnp.arange(block), assignment(within_conditions(costs, condition))], jnp.zeros([])

    couple = in_blocks("equivariant_optimal_transport", block, match)

    def pair(keys, x0, eps, condition):
        _check_points(x0)
        return couple(keys, x0, eps, condition)[0]

    return Coupling(pair, block, condition="seen")


def matched(x: Array, e: Array) -> Array:
    """The points e in the order p that minimises sum_i |x_i - e_p(i)|^2.

    Args:
        x: points `[N, D]`, float.
        e: points `[N, D]`, float.

    Returns:
        `[N, D]`.

    Reference: Kuhn 1955, "The Hungarian method for the assignment problem".
    """
    return e[assignment(-matmul(x, e.T))]


def rotated(x: Array, e: Array) -> Array:
    """The points e R, turned about the origin by the rotation R that minimises |x - e R|^2, without reflections.

    Args:
        x: points `[N, D]`, float.
        e: points `[N, D]`, float.

    Returns:
        `[N, D]`.

    Reference: Kabsch 1976, "A solution for the best rotation to relate two sets of vectors".
    """
    return matmul(e, turn(x, e))


def turn(x: Array, e: Array) -> Array:
    """The rotation R `[D, D]` that minimises |x - e R|^2; arguments as in `rotated`."""
    u, _, vt = jnp.linalg.svd(matmul(e.T, x))
    last = jnp.ones(x.shape[1], u.dtype).at[-1].set(jnp.sign(jnp.linalg.det(matmul(u, vt))))
    return matmul(u * last, vt)


def _nearest(x: Array, e: Array, permutation: bool, rotation: bool) -> Array:
    for _ in range(ROUNDS if permutation and rotation else 1):
        e = matched(x, e) if permutation else e
        e = rotated(x, e) if rotation else e
    return e


def _check(permutation: bool, rotation: bool) -> None:
    if not (permutation or rotation):
        raise ValueError(
            "permutation = rotation = False would leave the noise unchanged. Valid: couplings.independent()"
        )


def _check_points(x: Array) -> None:
    if x.ndim != 3:
        raise ValueError(f"examples must be sets of points [B, N, D], got {list(x.shape)}")


public.declare(__name__)
