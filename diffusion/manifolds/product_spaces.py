"""Products of manifolds, and powers of a manifold."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.arrays.arguments import is_count
from diffusion.manifolds import smooth
from diffusion.manifolds.manifold import Manifold, Shape, check_manifold, in_coordinates, leaf_shapes


def product(*factors: Manifold) -> Manifold:
    """The product M_1 x ... x M_n with the sum of the metrics; a point is a tuple with a point of each factor.

    Facts:
        points: tuples
        metric: the sum of the factors' metrics
        cut_locus: where a factor is on its cut locus
        paper: Chen and Lipman 2024, "Flow Matching on General Geometries"

    The scale of a wrapped normal on it is one number, or a tuple with one for each factor.

    Args:
        factors: two or more manifolds; for copies of one manifold, `power` has points that are one array.

    Raises:
        ValueError: if there are fewer than two factors.
    """
    if len(factors) < 2:
        raise ValueError(f"product: takes two manifolds or more, got {len(factors)}")
    dimension = sum(factor.dimension for factor in factors)

    def apply(field: str):
        """Applies the function `field` of every factor to the factor's part of every argument."""
        return lambda *points: tuple(getattr(factor, field)(*parts) for factor, *parts in zip(factors, *points))

    def total(field: str) -> Callable[..., Array]:
        return lambda *points: functools.reduce(jnp.add, apply(field)(*points))

    def basis(x):
        before = 0
        parts = []
        for factor, part in zip(factors, x):
            after = dimension - before - factor.dimension
            parts.append(_each(lambda a, axes: _padded(a, axes, before, after), factor.shape, factor.basis(part)))  # noqa: B023
            before += factor.dimension
        return tuple(parts)

    def tangent_normal(key, x):
        return apply("tangent_normal")(jax.random.split(key, len(factors)), x)

    def wrapped_log_density(mean, scale, x):
        scales = scale if isinstance(scale, tuple) else (scale,) * len(factors)
        return total("wrapped_log_density")(mean, scales, x)

    def uniform(key, shape):
        keys = jax.random.split(key, len(factors))
        return tuple(factor.uniform(key, shape) for factor, key in zip(factors, keys) if factor.uniform)

    def check(x):
        if not isinstance(x, tuple) or len(x) != len(factors):
            kind = f"a tuple of {len(x)}" if isinstance(x, tuple) else type(x).__name__
            raise ValueError(f"product: a point is a tuple of {len(factors)}, got {kind}")
        apply("check")(x)

    return Manifold(
        name=f"product({', '.join(factor.name for factor in factors)})",
        shape=tuple(factor.shape for factor in factors),
        dimension=dimension,
        exp=apply("exp"),
        log=apply("log"),
        distance=lambda x, y: smooth.length(jnp.stack(apply("distance")(x, y), -1)),
        inner=total("inner"),
        project=apply("project"),
        tangent=apply("tangent"),
        lift=apply("lift"),
        basis=basis,
        transport=apply("transport"),
        log_volume_change=total("log_volume_change"),
        tangent_normal=tangent_normal,
        wrapped_log_density=wrapped_log_density,
        cut_distance=lambda x, y: jnp.stack(apply("cut_distance")(x, y), -1).min(-1),
        log_volume=sum(factor.log_volume for factor in factors),
        uniform=uniform if all(factor.uniform for factor in factors) else None,
        injectivity_radius=min(factor.injectivity_radius for factor in factors),
        check=check,
    )


def power(factor: Manifold, n: int) -> Manifold:
    """The power M^n, such as the frames of n residues; points have an axis of n in front.

    Facts:
        points: n points of the factor, with the axis of n in front
        metric: the sum over the axis
        cut_locus: where one of the n points is on its cut locus
        paper: -

    Args:
        factor: the manifold M.
        n: number of factors, >= 1.

    Raises:
        ValueError: if n < 1.
    """
    if not is_count(n):
        raise ValueError(f"power: n = {n} of {factor.name} must be positive and an integer")
    total = lambda function: lambda *points: function(*points).sum(-1)

    def basis(x):
        def diagonal(a, axes):  # [..., n, d, *shape] -> [..., n d, n, *shape]
            eye = jnp.eye(n, dtype=a.dtype).reshape(n, 1, n, *(1,) * axes)
            blocks = eye * jnp.expand_dims(a, a.ndim - axes)
            return blocks.reshape(*a.shape[: a.ndim - axes - 2], n * factor.dimension, n, *a.shape[a.ndim - axes :])

        return _each(diagonal, factor.shape, factor.basis(x))

    def wrapped_log_density(mean, scale, x):
        scales = jax.tree.map(lambda number: jnp.asarray(number)[..., None], scale)
        return factor.wrapped_log_density(mean, scales, x).sum(-1)

    def check(x):
        for leaf, axes in zip(jax.tree.leaves(x), leaf_shapes(factor.shape)):
            got = jnp.shape(leaf)
            if len(got) <= len(axes) or got[len(got) - len(axes) - 1] != n:
                raise ValueError(f"power: arrays have shape [..., {', '.join(map(str, (n, *axes)))}], got {list(got)}")
        factor.check(x)

    draw = factor.uniform
    return Manifold(
        name=f"power({factor.name}, {n})",
        shape=_longer(factor.shape, n),
        dimension=n * factor.dimension,
        exp=factor.exp,
        log=factor.log,
        distance=lambda x, y: smooth.length(factor.distance(x, y)),
        inner=total(factor.inner),
        project=factor.project,
        tangent=factor.tangent,
        lift=factor.lift,
        basis=basis,
        transport=factor.transport,
        log_volume_change=total(factor.log_volume_change),
        tangent_normal=factor.tangent_normal,
        wrapped_log_density=wrapped_log_density,
        cut_distance=lambda x, y: factor.cut_distance(x, y).min(-1),
        log_volume=n * factor.log_volume,
        uniform=(lambda key, shape: draw(key, (*shape, n))) if draw else None,
        injectivity_radius=factor.injectivity_radius,
        check=check,
    )


def packed(manifold: Manifold) -> Manifold:
    """A manifold with points as vectors `[D]` of all coordinates instead of tuples.

    Facts:
        points: vectors `[D]`, the concatenated coordinates of the parts
        metric: the manifold's
        cut_locus: the manifold's
        paper: -

    Objectives, samplers and likelihoods need points that are one array; this function makes products usable there.

    Args:
        manifold: a product, or any other manifold.
    """
    check_manifold(manifold)
    shapes = leaf_shapes(manifold.shape)
    ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()

    def parts(x):
        """The point, or tangent vector, that a vector `[..., D]` encodes."""
        leaves = [
            x[..., end - math.prod(shape) : end].reshape((*x.shape[:-1], *shape)) for end, shape in zip(ends, shapes)
        ]
        return _nested(manifold.shape, iter(leaves))

    def flat(point):
        leaves = zip(jax.tree.leaves(point), shapes)
        return jnp.concatenate(
            [a.reshape(*a.shape[: a.ndim - len(shape)], math.prod(shape)) for a, shape in leaves], -1
        )

    def check(x):
        got = jnp.shape(x)
        if not got or got[-1] != ends[-1]:
            raise ValueError(f"packed: points of {manifold.name} have shape [..., {ends[-1]}], got {list(got)}")
        manifold.check(parts(x))

    return in_coordinates(manifold, f"packed({manifold.name})", (ends[-1],), parts, flat, check)


def _nested(shape: Shape, leaves: Any) -> Any:
    """The arrays, in order, as a point of a manifold with this shape."""
    if all(isinstance(axis, int) for axis in shape):
        return next(leaves)
    return tuple(_nested(part, leaves) for part in shape)


def _each(function: Any, shape: Shape, tree: Any) -> Any:
    """function(array, number of axes of its point), for each array of a tree of points."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([function(a, len(axes)) for a, axes in zip(leaves, leaf_shapes(shape))])


def _padded(a: Any, axes: int, before: int, after: int) -> Any:
    """Pads the axis of a basis with zeros."""
    return jnp.pad(a, [(before, after) if axis == a.ndim - axes - 1 else (0, 0) for axis in range(a.ndim)])


def _longer(shape: Shape, n: int) -> Shape:
    return (n, *shape) if all(isinstance(axis, int) for axis in shape) else tuple(_longer(part, n) for part in shape)
