"""Curved spaces as small tuples of functions, and distributions on them with exact densities.

A manifold is a `Manifold`: exp, log, distance, metric, projections, transport, and the volumes that densities need.
Everything that works on one works on all, through these functions alone.
"""

from diffusion import public
from diffusion.manifolds import smooth, symmetric_functions, wrapped
from diffusion.manifolds.distributions import Distribution, uniform, wrapped_normal
from diffusion.manifolds.euclidean import euclidean
from diffusion.manifolds.hyperbolic import lorentz, lorentz_to_poincare, poincare, poincare_to_lorentz
from diffusion.manifolds.manifold import Manifold, check_targets, geodesic, norm, scaled
from diffusion.manifolds.positive_definite import positive_definite
from diffusion.manifolds.product_spaces import power, product
from diffusion.manifolds.rotations import (
    from_quaternion,
    from_rotation_vector,
    se3,
    so3,
    to_quaternion,
    to_rotation_vector,
)
from diffusion.manifolds.simplex import simplex
from diffusion.manifolds.sphere import sphere
from diffusion.manifolds.torus import circle, torus

__all__ = [
    "Distribution",
    "Manifold",
    "check_targets",
    "circle",
    "euclidean",
    "from_quaternion",
    "from_rotation_vector",
    "geodesic",
    "lorentz",
    "lorentz_to_poincare",
    "norm",
    "poincare",
    "poincare_to_lorentz",
    "positive_definite",
    "power",
    "product",
    "scaled",
    "se3",
    "simplex",
    "smooth",
    "so3",
    "sphere",
    "symmetric_functions",
    "to_quaternion",
    "to_rotation_vector",
    "torus",
    "uniform",
    "wrapped",
    "wrapped_normal",
]

public.declare(__name__)
