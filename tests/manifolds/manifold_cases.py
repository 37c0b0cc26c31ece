"""The members of the conformance suite: a new manifold is one line."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffusion import manifolds


class Case(NamedTuple):
    """What the suite needs to know of a manifold.

    Attributes:
        make: () -> the manifold.
        origin: coordinates from which `project` makes a point.
        reach: longest tangent vector that is tried, below the injectivity radius.
        spread: scale of the wrapped normal that draws the points.
        cut: x -> a point on its cut locus; None where it has none.
        loses: factor by which float32 is less exact than 1e-6 at that reach, where coordinates grow.
    """

    make: Callable[[], manifolds.Manifold]
    origin: Any
    reach: float
    spread: float = 1.0
    cut: Callable[[Any], Any] | None = None
    loses: float = 1.0


AXIS = np.array([0.0, 0.6, -0.8])
CASES = {
    "euclidean(3)": Case(lambda: manifolds.euclidean(3), AXIS, 10),
    "euclidean(2, 2)": Case(lambda: manifolds.euclidean(2, 2), np.eye(2), 10),
    "circle": Case(manifolds.circle, np.array(1.0), 3.1, cut=lambda x: x - jnp.pi),
    "torus(3)": Case(lambda: manifolds.torus(3), AXIS, 3.1, cut=lambda x: x + jnp.pi),
    "sphere(1)": Case(lambda: manifolds.sphere(1), np.array([0.6, 0.8]), 3.1, cut=lambda x: -x),
    "sphere(2)": Case(lambda: manifolds.sphere(2), AXIS, 3.1, cut=lambda x: -x),
    "sphere(2) x circle": Case(
        lambda: manifolds.product(manifolds.sphere(2), manifolds.circle()),
        (AXIS, np.array(0.0)), 3.1, cut=lambda x: (-x[0], x[1]),
    ),
    "(sphere(2) x circle)^2": Case(
        lambda: manifolds.power(manifolds.product(manifolds.sphere(2), manifolds.circle()), 2),
        (np.stack([AXIS, -AXIS]), np.zeros(2)), 3.1, cut=lambda x: (-x[0], x[1]),
    ),
}  # fmt: skip
