"""The cost of optimal transport on a manifold."""

__all__ = ["geodesic_cost"]

import jax

from diffusion.manifolds.manifold import Manifold, check_manifold
from diffusion.objectives.couplings import Cost
from diffusion.package import public


def geodesic_cost(manifold: Manifold) -> Cost:
    """The cost function (x `[n, *shape]`, y `[m, *shape]`) -> squared distances d(x_i, y_j)^2 `[n, m]`.

    Use it in `couplings.optimal_transport` and `couplings.sinkhorn`: Chen and Lipman 2024, "Flow Matching on General
    Geometries"; Bose et al. 2024, "SE(3)-Stochastic Flow Matching for Protein Backbone Generation".

    Args:
        manifold: the manifold of x and y.
    """
    check_manifold(manifold)

    def cost(x, y):
        expand = lambda leaf: leaf[:, None]
        return manifold.distance(jax.tree.map(expand, x), jax.tree.map(lambda leaf: leaf[None], y)) ** 2

    return cost


public.declare(__name__)
