"""Manifolds as tuples of functions, and distributions on them with exact densities.

A manifold is a `Manifold`: exp, log, distance, metric, projections, transport, and the volumes that densities need. The
rest of the library uses a manifold only through these functions, so everything works on all manifolds.
"""

from typing import TYPE_CHECKING

from diffusion.manifolds import smooth as smooth, symmetric_functions as symmetric_functions, wrapped as wrapped
from diffusion.manifolds.distributions import (
    Distribution as Distribution,
    uniform as uniform,
    wrapped_normal as wrapped_normal,
)
from diffusion.manifolds.euclidean import euclidean as euclidean
from diffusion.manifolds.hyperbolic import (
    lorentz as lorentz,
    lorentz_to_poincare as lorentz_to_poincare,
    poincare as poincare,
    poincare_to_lorentz as poincare_to_lorentz,
)
from diffusion.manifolds.manifold import (
    Manifold as Manifold,
    check_targets as check_targets,
    geodesic as geodesic,
    norm as norm,
    scaled as scaled,
)
from diffusion.manifolds.positive_definite import positive_definite as positive_definite
from diffusion.manifolds.product_spaces import packed as packed, power as power, product as product
from diffusion.manifolds.rigid_frames import (
    aligned_frames as aligned_frames,
    centred as centred,
    frame_prior as frame_prior,
    frames as frames,
)
from diffusion.manifolds.rotations import (
    from_quaternion as from_quaternion,
    from_rotation_vector as from_rotation_vector,
    hat as hat,
    se3 as se3,
    so3 as so3,
    to_quaternion as to_quaternion,
    to_rotation_vector as to_rotation_vector,
)
from diffusion.manifolds.simplex import simplex as simplex
from diffusion.manifolds.sphere import sphere as sphere
from diffusion.manifolds.torus import circle as circle, torus as torus
from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.flows.flow_maps import TangentField as TangentField
    from diffusion.manifolds import heat_kernels as heat_kernels, mixtures as mixtures
    from diffusion.manifolds.conditional_flows import riemannian_flow_matching as riemannian_flow_matching
    from diffusion.manifolds.denoising_scores import riemannian_score_matching as riemannian_score_matching
    from diffusion.manifolds.frame_samplers import frame_ancestral as frame_ancestral
    from diffusion.manifolds.geodesic_solvers import (
        geodesic_euler as geodesic_euler,
        geodesic_heun as geodesic_heun,
        geodesic_random_walk as geodesic_random_walk,
        geodesic_rk4 as geodesic_rk4,
    )
    from diffusion.manifolds.geodesic_transport import geodesic_cost as geodesic_cost
    from diffusion.manifolds.riemannian_likelihood import (
        exact_divergence as exact_divergence,
        hutchinson_divergence as hutchinson_divergence,
        riemannian_log_likelihood as riemannian_log_likelihood,
    )

public.declare(__name__)
