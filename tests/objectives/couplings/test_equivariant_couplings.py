"""Couplings of sets of points find the order and the orientation again; and transport by a distance of one's own."""

import itertools

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from diffusion import couplings
from diffusion.manifolds import geodesic_cost, torus

KEYS = jax.random.split(jax.random.key(0), 4)
SETS = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
ALIGNED = jax.jit(couplings.aligned())
BY_ORDER, BY_TURN = jax.jit(couplings.aligned(rotation=False)), jax.jit(couplings.aligned(permutation=False))


def turned(sets, seed):
    turns = Rotation.random(len(sets), random_state=seed).as_matrix()
    return np.einsum("bni,bij->bnj", sets, turns).astype(np.float32)


def shuffled(sets, seed):
    rng = np.random.default_rng(seed)
    return np.stack([one[rng.permutation(len(one))] for one in sets])


def test_the_order_and_the_orientation_are_found_again():
    by_order = BY_ORDER(KEYS, SETS, shuffled(SETS, 1))
    np.testing.assert_array_equal(by_order, SETS)
    with_condition = BY_ORDER(KEYS, SETS, shuffled(SETS, 1), np.arange(4))
    np.testing.assert_array_equal(with_condition, SETS)  # each example keeps its noise, whatever its condition
    by_turn = BY_TURN(KEYS, SETS, turned(SETS, 1))
    np.testing.assert_allclose(by_turn, SETS, atol=1e-5)
    mirrored = BY_TURN(KEYS, SETS, -SETS)  # no rotation undoes a reflection
    assert np.abs(mirrored - SETS).max() > 0.1


def test_of_points_in_the_plane_the_best_angle_is_found():
    """tan = sum(e x x) / sum(e . x); also where a reflection would come nearer, so that one axis is turned back."""
    x, noise = np.random.default_rng(3).normal(size=(2, 5, 2)).astype(np.float32)
    both = np.stack([noise, noise * np.float32([1, -1])])
    for found, e in zip(BY_TURN(KEYS[:2], np.stack([x, x]), both), both):
        angle = np.arctan2((e[:, 0] * x[:, 1] - e[:, 1] * x[:, 0]).sum(), (e * x).sum())
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        np.testing.assert_allclose(found, e @ turn, atol=1e-5)


def test_both_together_come_nearer_and_change_only_order_and_orientation():
    noise = np.random.default_rng(7).normal(size=SETS.shape).astype(np.float32)
    near = np.asarray(ALIGNED(KEYS, SETS, noise))
    assert np.all(np.sum((near - SETS) ** 2, (1, 2)) < np.sum((noise - SETS) ** 2, (1, 2)))
    for one, other in zip(noise, near):
        (order,) = (p for p in map(list, itertools.permutations(range(5))) if same_shape(one[p], other))
        turn = np.linalg.lstsq(one[order], other, rcond=None)[0]
        assert np.linalg.det(turn) == pytest.approx(1, abs=1e-4)  # -1 for a reflection


def same_shape(a, b):
    """Whether all inner products of the points are the same, as under rotations and reflections alone."""
    return np.allclose(a @ a.T, b @ b.T, atol=1e-4)


@pytest.mark.extended
def test_transport_between_sets_finds_each_partner_again():
    order = np.array([2, 0, 3, 1])
    moved = shuffled(SETS, 3)[order]
    paired = jax.jit(couplings.equivariant_optimal_transport(4, rotation=False))(KEYS, SETS, moved)
    np.testing.assert_array_equal(paired, SETS)
    by_turn = jax.jit(couplings.equivariant_optimal_transport(4, permutation=False))
    paired = by_turn(KEYS, SETS, turned(SETS, 2)[order])
    np.testing.assert_allclose(paired, SETS, atol=1e-5)
    both = couplings.equivariant_optimal_transport(4)
    noise = np.random.default_rng(8).normal(size=SETS.shape).astype(np.float32)
    paired, aligned = (np.asarray(pair(KEYS, SETS, noise)) for pair in (jax.jit(both), ALIGNED))
    assert np.sum((paired - SETS) ** 2) <= np.sum((aligned - SETS) ** 2) + 1e-4
    partners = [
        [any(same_shape(e[list(p)], f) for p in itertools.permutations(range(5))) for e in noise] for f in paired
    ]
    np.testing.assert_array_equal(np.sum(partners, 0), 1)
    np.testing.assert_array_equal(np.sum(partners, 1), 1)


def test_transport_by_geodesic_distance_goes_round_the_torus():
    """As scipy pairs them, by distances that pass over -pi = pi."""
    x = np.array([[3.0, 0.1], [-0.1, 3.1], [1.0, -2.0], [-2.9, 2.8]], np.float32)
    e = np.array([[0.2, -3.1], [-3.1, 0.0], [2.9, -2.9], [1.5, -1.0]], np.float32)
    distances = np.abs((x[:, None] - e[None] + np.pi) % (2 * np.pi) - np.pi)
    _, columns = linear_sum_assignment(np.sum(distances**2, -1))
    cost = geodesic_cost(torus(2))
    np.testing.assert_array_equal(jax.jit(couplings.optimal_transport(4, cost))(KEYS, x, e), e[columns])
    assert not np.array_equal(jax.jit(couplings.optimal_transport(4))(KEYS, x, e), e[columns])
    plan = jax.jit(lambda x, e: couplings.entropic_plan(x, e, 0.05, cost=cost))(x, e)
    np.testing.assert_array_equal(np.argmax(plan, 1), columns)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="permutation = rotation = False would leave the noise unchanged"):
        couplings.aligned(False, False)
    with pytest.raises(ValueError, match=r"\[B, N, D\]"):
        couplings.aligned()(KEYS, SETS[:, 0], SETS[:, 0])
    with pytest.raises(ValueError, match="is not a multiple of block = 3"):
        couplings.equivariant_optimal_transport(3)(KEYS, SETS, SETS)
    with pytest.raises(ValueError, match="at least 2"):
        couplings.equivariant_optimal_transport(1)


def test_both_are_found_in_three_rounds_of_one_after_the_other():
    sets, noise = np.random.default_rng(3).normal(size=(2, 4, 16, 3)).astype(np.float32)
    rounds = [noise]
    for _ in range(3):
        rounds.append(BY_TURN(KEYS, sets, BY_ORDER(KEYS, sets, rounds[-1])))
    np.testing.assert_allclose(ALIGNED(KEYS, sets, noise), rounds[3], atol=1e-5)
    assert np.abs(rounds[3] - rounds[1]).max() > 0.1


def test_transport_of_pairs_of_points_finds_their_partners_in_any_order():
    """On the line: two sets of two points each, which come in the other order, and their points too."""
    sets = np.array([[[0.0], [1.0]], [[5.0], [9.0]]], np.float32)
    pair = couplings.equivariant_optimal_transport(2, rotation=False)
    np.testing.assert_array_equal(pair(KEYS[:2], sets, sets[::-1, ::-1], None), sets)
    kept = pair(KEYS[:2], sets, sets[::-1, ::-1], np.array([0, 1]))  # only within a condition
    np.testing.assert_array_equal(kept, sets[::-1])
    assert pair.condition == "seen" and pair.block == 2
