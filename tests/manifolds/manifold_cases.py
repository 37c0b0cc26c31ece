"""The members of the conformance suite: a new manifold is one line."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffusion import manifolds


class Case(NamedTuple):
    """The facts of a manifold that the conformance suite needs.

    Attributes:
        make: a function () -> the manifold.
        origin: coordinates from which `project` makes a point.
        reach: longest tangent vector that is tried, below the injectivity radius.
        spread: scale of the wrapped normal that draws the points.
        cut: a function x -> a point on the cut locus of x; None if the cut locus is empty.
        loses: factor by which errors in float32 exceed 1e-6 at that reach, where coordinates are large.
    """

    make: Callable[[], manifolds.Manifold]
    origin: Any
    reach: float
    spread: float = 1.0
    cut: Callable[[Any], Any] | None = None
    loses: float = 1.0


def half_turn(r):
    """A rotation by pi from r."""
    return r @ jnp.diag(jnp.asarray([1, -1, -1], r.dtype))


AXIS = np.array([0.0, 0.6, -0.8])
CASES = {
    "euclidean(3)": Case(lambda: manifolds.euclidean(3), AXIS, 10),
    "euclidean(2, 2)": Case(lambda: manifolds.euclidean(2, 2), np.eye(2), 10),
    "circle": Case(manifolds.circle, np.array(1.0), 3.1, cut=lambda x: x - jnp.pi),
    "torus(3)": Case(lambda: manifolds.torus(3), AXIS, 3.1, cut=lambda x: x + jnp.pi),
    "sphere(1)": Case(lambda: manifolds.sphere(1), np.array([0.6, 0.8]), 3.1, cut=lambda x: -x),
    "sphere(2)": Case(lambda: manifolds.sphere(2), AXIS, 3.1, cut=lambda x: -x),
    "so3": Case(manifolds.so3, np.eye(3), 3.1, cut=half_turn),
    "se3": Case(manifolds.se3, (np.eye(3), AXIS), 3.1, cut=lambda x: (half_turn(x[0]), x[1])),
    "poincare(2)": Case(lambda: manifolds.poincare(2), AXIS[:2] / 2, 3, 0.5, loses=4),
    "lorentz(2)": Case(lambda: manifolds.lorentz(2), np.array([1.0, 0, 0]), 1.5, 0.3, loses=30),
    "simplex(3)": Case(lambda: manifolds.simplex(3), np.full(4, 0.25), 0.2, 0.1),
    "positive_definite(2)": Case(lambda: manifolds.positive_definite(2), np.diag([1.0, 2.0]), 2, 0.5, loses=30),
    "positive_definite(3)": Case(lambda: manifolds.positive_definite(3), np.eye(3), 2, 0.5, loses=30),
    "sphere(2) x circle": Case(
        lambda: manifolds.product(manifolds.sphere(2), manifolds.circle()),
        (AXIS, np.array(0.0)), 3.1, cut=lambda x: (-x[0], x[1]),
    ),
    "packed(sphere(2) x circle)": Case(
        lambda: manifolds.packed(manifolds.product(manifolds.sphere(2), manifolds.circle())),
        np.array([*AXIS, 0.0]), 3.1, cut=lambda x: jnp.concatenate([-x[..., :3], x[..., 3:]], -1),
    ),
    "se3^2": Case(
        lambda: manifolds.power(manifolds.se3(), 2), (np.stack([np.eye(3)] * 2), np.stack([AXIS, -AXIS])), 3.1,
        cut=lambda x: (half_turn(x[0]), x[1]),
    ),
    "centred(3)": Case(lambda: manifolds.centred(3), np.stack([AXIS, -AXIS, 0 * AXIS]), 10),
    "frames(2)": Case(
        lambda: manifolds.frames(2),
        np.concatenate([np.stack([np.eye(3)] * 2), np.stack([AXIS, -AXIS])[..., None]], -1), 3.1,
        cut=lambda x: jnp.concatenate([half_turn(x[..., :3]), x[..., 3:]], -1),
    ),
}  # fmt: skip
