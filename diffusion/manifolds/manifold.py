"""The type that every factory of this package returns, and functions that work on all manifolds.

Points are arrays of coordinates with leading batch axes; a point of a product is a tuple of arrays. Tangent vectors use
the same coordinates as points. Functions broadcast over the batches of their arguments.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require
from diffusion.arrays.square_roots import root
from diffusion.schedules import left_broadcast

Shape = tuple[Any, ...]
"""The axes of a point's coordinates, such as `(3,)`; for a product, a tuple of shapes."""


class Manifold(NamedTuple):
    """A complete Riemannian manifold, as functions of its points x, y and tangent vectors u, v.

    Attributes:
        name: name of the manifold in messages, such as "sphere(2)".
        shape: the axes of a point's coordinates; for a product, a tuple of shapes.
        dimension: the dimension of the manifold, not of its coordinates.
        exp: (x, v) -> y, the end at time 1 of the geodesic from x with velocity v, for v of any length that the number
            type allows.
        log: (x, y) -> v, the shortest v with exp(x, v) = y. On the cut locus, where several v are shortest and
            `cut_distance` is 0, a fixed one of them is chosen; its derivatives are finite.
        distance: (x, y) -> length `[...]` of the shortest geodesic.
        inner: (x, u, v) -> inner product `[...]` of u and v in the metric at x.
        project: x -> a point of the manifold near the coordinates x.
        tangent: (x, v) -> the orthogonal projection of ambient coordinates v on the tangent space at x.
        lift: (x, w) -> the tangent vector at x for numbers w `[..., *shape]`, such as a network's output. It is linear
            in w, surjective, and has a norm of about |w| in the metric at every x, also near the boundary.
        basis: x -> `[..., dimension, *shape]`, a basis of the tangent space that is orthonormal in the metric.
        transport: (x, y, v) -> parallel transport of v along the geodesic exp(x, t log(x, y)) from x to y.
        log_volume_change: (x, v) -> log |det d exp_x| `[...]` at v, in orthonormal bases at both ends.
        tangent_normal: (key, x) -> v, a standard normal draw in the tangent space at x.
        wrapped_log_density: (mean, scale, x) -> log-density `[...]` of `wrapped_normal`, with respect to the metric's
            volume.
        cut_distance: (x, y) -> length `[...]` by which the geodesic from x to y can be extended and remain the
            shortest; inf if there is no cut locus.
        check: x -> None; ValueError if the shape is wrong, or, outside of `jit`, if a point is off the manifold.
        log_volume: log of the total volume; inf if the manifold is not compact.
        uniform: (key, batch shape) -> draws that are uniform in the metric's volume; None if the volume is infinite.
        injectivity_radius: smallest distance of a point from its cut locus.
    """

    name: str
    shape: Shape
    dimension: int
    exp: Callable[[Any, Any], Any]
    log: Callable[[Any, Any], Any]
    distance: Callable[[Any, Any], Array]
    inner: Callable[[Any, Any, Any], Array]
    project: Callable[[Any], Any]
    tangent: Callable[[Any, Any], Any]
    lift: Callable[[Any, Any], Any]
    basis: Callable[[Any], Any]
    transport: Callable[[Any, Any, Any], Any]
    log_volume_change: Callable[[Any, Any], Array]
    tangent_normal: Callable[[Array, Any], Any]
    wrapped_log_density: Callable[[Any, Any, Any], Array]
    cut_distance: Callable[[Any, Any], Array]
    check: Callable[[Any], None]
    log_volume: float = math.inf
    uniform: Callable[[Array, tuple[int, ...]], Any] | None = None
    injectivity_radius: float = math.inf

    @property
    def volume(self) -> float:
        """exp(log_volume), which may overflow or underflow in many dimensions."""
        return math.exp(self.log_volume)


def check_manifold(manifold: Any) -> None:
    """Refuses a value that is not a manifold, such as a function of `manifolds` that was not called.

    Raises:
        TypeError: if the value is not a manifold; the message names it.
    """
    require(manifold, Manifold, "manifold", "a Manifold, e.g. manifolds.sphere(2)")


def geodesic(manifold: Manifold, x: Any, y: Any, t: ArrayLike) -> Any:
    """The point at t of the shortest geodesic, exp(x, t log(x, y)): x at t = 0, y at t = 1.

    Args:
        manifold: the manifold of x and y.
        x: start points `[..., *shape]`.
        y: end points `[..., *shape]`; on the cut locus of x one of several geodesics is chosen, see `Manifold.log`.
        t: times, `[]` or a prefix of the batch shape, any real numbers.
    """
    check_manifold(manifold)
    return manifold.exp(x, scaled(t, manifold.log(x, y)))


def norm(manifold: Manifold, x: Any, v: Any) -> Array:
    """Norm `[...]` of a tangent vector, inner(x, v, v)^(1/2).

    Args:
        manifold: the manifold.
        x: points `[..., *shape]`.
        v: tangent vectors at x, `[..., *shape]`.
    """
    check_manifold(manifold)
    return root(manifold.inner(x, v, v))


def scaled(t: Any, v: Any) -> Any:
    """t v, where t is a number, one number for each example, or, for a product, a tuple with one for each factor.

    Args:
        t: a pytree that is a prefix of v's, whose arrays have shapes that are prefixes of the batch shape.
        v: a tangent vector, `[..., *shape]`.
    """
    return jax.tree.map(lambda number, part: jax.tree.map(lambda a: left_broadcast(number, a) * a, part), t, v)


def check_targets(manifold: Manifold, x: Any, y: Any, margin: float = 1e-3) -> None:
    """Refuses pairs between which the shortest geodesic is not unique, or nearly not unique.

    A compiled program cannot raise; use `cut_distance` there.

    Args:
        manifold: the manifold of x and y.
        x: points `[..., *shape]`.
        y: targets of the points, `[..., *shape]`.
        margin: smallest valid `cut_distance`, >= 0.

    Raises:
        ValueError: if a pair is closer to the cut locus; the message names the closest pair.
    """
    check_manifold(manifold)
    left = manifold.cut_distance(x, y)
    if isinstance(left, Tracer):
        return
    left = np.asarray(left)
    if not left.size:
        return
    worst = np.unravel_index(np.argmin(left), left.shape)
    if not left[worst] >= margin:
        raise ValueError(
            f"{manifold.name}: target {_place(worst)} is {max(float(left[worst]), 0.0):.2g} from the cut locus of its "
            f"point, less than margin = {margin:g}: several geodesics between the two are (nearly) equally short"
        )


def checked(
    name: str, shape: tuple[int, ...], valid: str, error: Callable[[np.ndarray], np.ndarray], tolerance: float = 1e-4
) -> Callable[[Any], None]:
    """The `check` of a manifold whose points are arrays.

    Args:
        name: name of the manifold.
        shape: axes of a point.
        valid: condition on a point's coordinates in words, for the message.
        error: points `[..., *shape]` float64 -> violation `[...]` of this condition.
        tolerance: largest valid violation.
    """

    def check(x):
        got = np.shape(x)
        if got[len(got) - len(shape) :] != shape:
            raise ValueError(f"{name}: points have shape [..., {', '.join(map(str, shape))}], got {list(got)}")
        if isinstance(x, Tracer):
            return
        points = np.asarray(x, np.float64)
        off = np.asarray(error(points))
        worst = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape) if off.size else None
        if worst is not None and not off[worst] <= tolerance:
            raise ValueError(
                f"{name}: point {_place(worst)}, {_short(points[worst])}, violates the condition by {off[worst]:.2g}. "
                f"Valid: {valid}; `project` finds a point nearby"
            )

    return check


def in_coordinates(
    manifold: Manifold,
    name: str,
    shape: Shape,
    parts: Callable[[Array], Any],
    join: Callable[[Any], Array],
    check: Callable[[Any], None],
) -> Manifold:
    """A manifold with its points and tangent vectors in other coordinates.

    Args:
        manifold: the manifold.
        name: name of the new manifold.
        shape: the axes of a point in the new coordinates.
        parts: new coordinates -> the manifold's coordinates, for points and tangent vectors.
        join: the inverse of `parts`.
        check: function that refuses invalid points in the new coordinates.
    """
    value = lambda field: lambda *arrays: getattr(manifold, field)(*map(parts, arrays))
    point = lambda field: lambda *arrays: join(value(field)(*arrays))
    uniform = manifold.uniform
    return manifold._replace(
        name=name,
        shape=shape,
        **{field: point(field) for field in ("exp", "log", "project", "tangent", "lift", "basis", "transport")},
        **{field: value(field) for field in ("distance", "inner", "log_volume_change", "cut_distance")},
        tangent_normal=lambda key, x: join(manifold.tangent_normal(key, parts(x))),
        wrapped_log_density=lambda mean, scale, x: manifold.wrapped_log_density(parts(mean), scale, parts(x)),
        uniform=(lambda key, shape: join(uniform(key, shape))) if uniform else None,
        check=check,
    )


def leaf_shapes(shape: Shape) -> list[tuple[int, ...]]:
    """The shapes of the arrays of a point, in the order of `jax.tree.leaves`."""
    if all(isinstance(axis, int) for axis in shape):
        return [shape]
    return [leaf for part in shape for leaf in leaf_shapes(part)]


def _place(index: tuple[np.intp, ...]) -> str:
    return f"[{', '.join(str(int(i)) for i in index)}]"


def _short(point: np.ndarray) -> str:
    """The first coordinates of a point."""
    return np.array2string(point.reshape(-1)[:9], precision=4, separator=", ") + ("..." if point.size > 9 else "")


def for_batches(v: Array, *others: Array) -> Array:
    """A tangent vector `[..., *shape]`, broadcast also to the batches of others, or of points."""
    return jnp.broadcast_to(v, jnp.broadcast_shapes(*map(jnp.shape, (v, *others))))


def for_batch(numbers: Array, x: Array, shape: tuple[int, ...]) -> Array:
    """Numbers `[...]`, broadcast also to the batch of points x `[..., *shape]`."""
    batch = jnp.shape(x)[: jnp.ndim(x) - len(shape)]
    return jnp.broadcast_to(numbers, jnp.broadcast_shapes(jnp.shape(numbers), batch))


def identity_basis(x: Array, shape: tuple[int, ...]) -> Array:
    """The standard basis of flat coordinates, `[..., D, *shape]`."""
    size = int(np.prod(shape, dtype=int))
    eye = jnp.eye(size, dtype=jnp.result_type(x)).reshape(size, *shape)
    return jnp.broadcast_to(eye, x.shape[: x.ndim - len(shape)] + eye.shape)
