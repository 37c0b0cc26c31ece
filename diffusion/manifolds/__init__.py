"""Curved spaces as small tuples of functions, and distributions on them with exact densities.

A manifold is a `Manifold`: exp, log, distance, metric, projections, transport, and the volumes that densities need.
Everything that works on one works on all, through these functions alone.
"""

from typing import TYPE_CHECKING

from diffusion import public
from diffusion.manifolds import smooth, symmetric_functions, wrapped
from diffusion.manifolds.distributions import Distribution, uniform, wrapped_normal
from diffusion.manifolds.euclidean import euclidean
from diffusion.manifolds.hyperbolic import lorentz, lorentz_to_poincare, poincare, poincare_to_lorentz
from diffusion.manifolds.manifold import Manifold, check_targets, geodesic, norm, scaled
from diffusion.manifolds.positive_definite import positive_definite
from diffusion.manifolds.product_spaces import packed, power, product
from diffusion.manifolds.rigid_frames import aligned_frames, centred, frame_prior, frames
from diffusion.manifolds.rotations import (
    from_quaternion,
    from_rotation_vector,
    hat,
    se3,
    so3,
    to_quaternion,
    to_rotation_vector,
)
from diffusion.manifolds.simplex import simplex
from diffusion.manifolds.sphere import sphere
from diffusion.manifolds.torus import circle, torus

if TYPE_CHECKING:
    from diffusion.manifolds import heat_kernels, mixtures
    from diffusion.manifolds.conditional_flows import riemannian_flow_matching
    from diffusion.manifolds.denoising_scores import riemannian_score_matching
    from diffusion.manifolds.frame_samplers import frame_ancestral
    from diffusion.manifolds.geodesic_solvers import geodesic_euler, geodesic_heun, geodesic_random_walk, geodesic_rk4
    from diffusion.manifolds.geodesic_transport import geodesic_cost
    from diffusion.manifolds.riemannian_likelihood import (
        exact_divergence,
        hutchinson_divergence,
        riemannian_log_likelihood,
    )
    from diffusion.manifolds.tangent_field import TangentField

__all__ = [
    "Distribution",
    "Manifold",
    "TangentField",
    "aligned_frames",
    "centred",
    "check_targets",
    "circle",
    "euclidean",
    "exact_divergence",
    "frame_ancestral",
    "frame_prior",
    "frames",
    "from_quaternion",
    "from_rotation_vector",
    "geodesic",
    "geodesic_cost",
    "geodesic_euler",
    "geodesic_heun",
    "geodesic_random_walk",
    "geodesic_rk4",
    "hat",
    "heat_kernels",
    "hutchinson_divergence",
    "lorentz",
    "lorentz_to_poincare",
    "mixtures",
    "norm",
    "packed",
    "poincare",
    "poincare_to_lorentz",
    "positive_definite",
    "power",
    "product",
    "riemannian_flow_matching",
    "riemannian_log_likelihood",
    "riemannian_score_matching",
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

public.declare(  # what acts on manifolds imports samplers and objectives, which import the types of this package
    __name__,
    {
        "conditional_flows": ("riemannian_flow_matching",),
        "denoising_scores": ("riemannian_score_matching",),
        "frame_samplers": ("frame_ancestral",),
        "geodesic_transport": ("geodesic_cost",),
        "riemannian_likelihood": ("exact_divergence", "hutchinson_divergence", "riemannian_log_likelihood"),
        "geodesic_solvers": ("geodesic_euler", "geodesic_heun", "geodesic_random_walk", "geodesic_rk4"),
        "tangent_field": ("TangentField",),
    },
)
