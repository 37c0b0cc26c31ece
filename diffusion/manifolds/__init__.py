"""Curved spaces as small tuples of functions, and distributions on them with exact densities.

A manifold is a `Manifold`: exp, log, distance, metric, projections, transport, and the volumes that densities need.
Everything that works on one works on all, through these functions alone.
"""

from diffusion import public
from diffusion.manifolds import smooth, wrapped
from diffusion.manifolds.distributions import Distribution, uniform, wrapped_normal
from diffusion.manifolds.euclidean import euclidean
from diffusion.manifolds.manifold import Manifold, check_targets, geodesic, norm, scaled
from diffusion.manifolds.product_spaces import power, product
from diffusion.manifolds.sphere import sphere
from diffusion.manifolds.torus import circle, torus

__all__ = [
    "Distribution",
    "Manifold",
    "check_targets",
    "circle",
    "euclidean",
    "geodesic",
    "norm",
    "power",
    "product",
    "scaled",
    "smooth",
    "sphere",
    "torus",
    "uniform",
    "wrapped",
    "wrapped_normal",
]

public.declare(__name__)
