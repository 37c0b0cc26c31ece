"""Laws that hold on every manifold, checked by one compiled program for each; hypothesis chooses points and lengths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from diffusion import manifolds
from tests.manifolds.manifold_cases import CASES

BATCH = 16
FAST = ("sphere(2)", "so3", "poincare(2)")
members = pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)


def apart(a, b):
    """`[B]` the largest difference between coordinates of two trees."""
    return functools.reduce(
        jnp.maximum, [jnp.abs(p - q).reshape(len(p), -1).max(1) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b))]
    )


def combined(weights, basis):
    """sum_i weights[..., i] basis_i."""
    return jax.tree.map(lambda b: (weights.reshape(weights.shape + (1,) * (b.ndim - 2)) * b).sum(1), basis)


def along(function, basis):
    """`[B, D, ...]` a function of each vector of a basis."""
    return jax.vmap(function, in_axes=1, out_axes=1)(basis)


@functools.cache
def program(name, dtype):
    """(key, length) -> {law: errors `[B]`} at random points, with tangent vectors of that length."""
    case = CASES[name]
    m = case.make()

    @jax.jit
    def errors(key, length):
        keys = jax.random.split(key, 5)
        origin = jax.tree.map(lambda a: jnp.broadcast_to(jnp.asarray(a, dtype), (BATCH, *np.shape(a))), case.origin)
        origin = m.project(origin)
        point = lambda key: m.exp(origin, manifolds.scaled(case.spread, m.tangent_normal(key, origin)))
        x, z = point(keys[0]), point(keys[1])
        u, v = m.tangent_normal(keys[2], x), m.tangent_normal(keys[3], x)
        v = m.tangent(x, manifolds.scaled(length / manifolds.norm(m, x, v), v))
        y = m.exp(x, v)
        w = m.log(x, y)
        basis = m.basis(x)
        coordinates = lambda v: along(lambda a: m.inner(x, v, a), basis)
        gram = along(coordinates, basis)
        ambient = jax.tree.map(lambda a: jax.random.normal(keys[4], a.shape, a.dtype), x)
        flat = m.tangent(x, ambient)
        carried_u, carried_v = m.transport(x, y, u), m.transport(x, y, v)
        push = lambda b: jax.jvp(lambda v: m.exp(x, v), (v,), (b,))[1]
        pushed, basis_there = along(push, basis), m.basis(y)
        jacobian = along(lambda p: along(lambda a: m.inner(y, p, a), basis_there), pushed)
        small, minus = manifolds.scaled(0.1, u), functools.partial(jax.tree.map, jnp.negative)
        middle = manifolds.geodesic(m, x, y, 0.5)
        mirrored = m.exp(middle, minus(m.log(middle, m.exp(x, small))))
        half = manifolds.geodesic(m, x, z, 0.25)
        d = m.distance
        relative = lambda error, size: error / (1 + size)
        return {
            "exp undoes log": apart(m.exp(x, w), y),
            "log undoes exp": relative(apart(w, v), length),
            "distance is the length of log": relative(jnp.abs(manifolds.norm(m, x, w) - d(x, y)), length),
            "distance is the length that exp went": relative(jnp.abs(d(x, y) - length), length),
            "distance is symmetric": relative(jnp.abs(d(x, y) - d(y, x)), length),
            "triangle inequality": relative(jnp.maximum(d(x, z) - d(x, y) - d(y, z), 0), length),
            "a geodesic has constant speed": relative(
                jnp.maximum(jnp.abs(d(x, half) - d(x, z) / 4), jnp.abs(d(half, z) - d(x, z) * 3 / 4)), d(x, z)
            ),
            "tangent is a projection": apart(m.tangent(x, flat), flat),
            "tangent keeps tangent vectors": relative(apart(m.tangent(x, v), v), length),
            "basis is orthonormal": apart(gram, jnp.broadcast_to(jnp.eye(m.dimension, dtype=dtype), gram.shape)),
            "basis spans": relative(apart(combined(coordinates(v), basis), v), length),
            "basis spans what tangent leaves": apart(combined(coordinates(flat), basis), flat),
            "transport keeps inner products": relative(
                jnp.abs(m.inner(y, carried_u, carried_v) - m.inner(x, u, v)), length
            ),
            "transport keeps lengths": relative(jnp.abs(m.inner(y, carried_u, carried_u) - m.inner(x, u, u)), 9),
            "transport leads to tangent vectors": apart(m.tangent(y, carried_u), carried_u),
            "transport keeps the velocity": relative(apart(m.transport(x, y, w), minus(m.log(y, x))), length),
            # Pennec 2018, "Parallel Transport with Pole Ladder": exact on symmetric spaces, as all of these are.
            "transport is the pole ladder": apart(minus(m.log(y, mirrored)), m.transport(x, y, small)),
            "exp changes volumes as told": jnp.abs(jnp.linalg.slogdet(jacobian)[1] - m.log_volume_change(x, v)),
            "points stay": apart(m.project(y), y),
            "a batch is one by one": apart(jax.vmap(m.log)(x, y), w) + apart(jax.vmap(m.exp)(x, v), y),
        }

    return errors


# The differential of exp, and what is divided by a sine near the cut locus, lose digits there.
LOSES = {
    "exp changes volumes as told": 100,
    "log undoes exp": 30,
    "transport keeps the velocity": 30,
    "transport is the pole ladder": 30,
    "transport keeps inner products": 5,
    "transport keeps lengths": 5,
    "transport leads to tangent vectors": 3,  # of lengths up to 4
}


def check_laws(name, dtype, seed, share):
    """Asserts that every error is below 1e-6, in units of float32's rounding, times what its law and manifold lose."""
    case = CASES[name]
    found = program(name, dtype)(jax.random.key(seed), jnp.asarray(share * case.reach, dtype))
    size = max(np.abs(leaf).max() for leaf in jax.tree.leaves(case.origin)) + case.reach
    unit = 1e-6 * jnp.finfo(dtype).eps / jnp.finfo(jnp.float32).eps
    for law, errors in found.items():
        bound = unit * case.loses * LOSES.get(law, 1)
        assert np.max(errors) <= bound * max(size / 4, 1), (law, np.max(errors))


lengths = given(seed=st.integers(0, 2**31 - 1), share=st.sampled_from([0.0, 1e-7, 1e-4, 0.01]) | st.floats(0.05, 1))


@pytest.mark.extended
@members
@lengths
def test_laws_in_float32(name, seed, share):
    check_laws(name, jnp.float32, seed, share)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@lengths
def test_laws_in_float64(name, seed, share):
    with jax.enable_x64(True):
        check_laws(name, jnp.float64, seed, share)


@functools.cache
def slopes(name):
    """x, and derivatives of log, exp, distance and density there: with y = x, and y on the cut locus."""
    case = CASES[name]
    m = case.make()

    @jax.jit
    def at(key):
        origin = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), case.origin)
        origin = m.project(origin)
        draw = lambda key: m.exp(origin, manifolds.scaled(case.spread, m.tangent_normal(key, origin)))
        x = jax.vmap(draw)(jax.random.split(key, 4))
        targets = {"itself": x} | ({"cut locus": m.project(case.cut(x))} if case.cut else {})
        joined = lambda *points: jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *points)
        many, y = joined(*[x] * len(targets)), joined(*targets.values())  # one batch, so that each is derived once

        def sums(x, y, v):
            density = m.wrapped_log_density(x, 1.0, y).sum()
            numbers = [leaf.sum() for leaf in jax.tree.leaves((m.log(x, y), m.exp(x, v), m.transport(x, y, v)))]
            return m.distance(x, y).sum() + density + m.log_volume_change(x, v).sum() + sum(numbers)

        found = jax.grad(sums, (0, 1, 2))(many, y, jax.tree.map(jnp.zeros_like, many))
        parts = lambda values: dict(zip(targets, jnp.split(values, len(targets))))
        reached, left = parts(apart(m.exp(many, m.log(many, y)), y)), parts(m.cut_distance(many, y))
        return x, targets, found, reached, left

    return at


@pytest.mark.extended
@members
def test_where_points_meet_and_on_the_cut_locus(name):
    """Derivatives are finite, log picks a shortest geodesic, and the pair is refused by name."""
    m = CASES[name].make()
    x, targets, found, reached, left = slopes(name)(jax.random.key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert all(np.max(error) < 2e-6 for error in reached.values()), reached
    manifolds.check_targets(m, x, x)
    manifolds.check_targets(m, *(jax.tree.map(lambda leaf: leaf[:0], (x, x))))
    if "cut locus" in targets:
        assert np.max(np.abs(left["cut locus"])) < 2e-6
        with pytest.raises(ValueError, match=r"target \[\d.*\] is .* from the cut locus"):
            manifolds.check_targets(m, x, targets["cut locus"])
    else:
        assert np.all(np.isinf(left["itself"]))


def test_angles_beyond_half_a_turn_either_way_are_refused():
    for angle in (3.5, -3.5):
        with pytest.raises(ValueError, match=r"angles are radians in \[-pi, pi\]"):
            manifolds.circle().check(np.float32(angle))
    manifolds.circle().check(np.float32([-3.1, 3.1]))


@pytest.mark.extended
@members
def test_points_off_the_manifold_are_refused(name):
    case = CASES[name]
    m = case.make()
    m.check(m.project(jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), case.origin)))
    off = jax.tree.map(lambda a: np.stack([a, np.where(np.indices(np.shape(a)).sum(0) == 0, np.nan, a)]), case.origin)
    with pytest.raises(ValueError, match=r"(?s)point \[1.*violates the condition by nan"):
        m.check(off)
    with pytest.raises(ValueError, match="shape" if m.shape else "radians"):
        m.check(jax.tree.map(lambda a: np.full(np.shape(a)[:-1] + (7,), 7.0), case.origin))
