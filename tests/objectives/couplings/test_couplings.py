"""Couplings: who is paired with whom, against scipy's assignment and the definition of entropic transport."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from diffusion import couplings

# Each is compiled once for each shape.

couple_by_two = jax.jit(couplings.optimal_transport(block=2))
couple_by_eight = jax.jit(couplings.optimal_transport(block=8))
sinkhorn_by_eight = jax.jit(couplings.sinkhorn(reg=1.0, block=8))
entropic_plan = jax.jit(couplings.entropic_plan, static_argnames=("tolerance", "iterations"))


def _keys(size, seed=0):
    return jax.random.split(jax.random.key(seed), size)


def _batch(size, shape=(3,), seed=0):
    x0, eps = np.random.default_rng(seed).standard_normal((2, size, *shape)).astype(np.float32)
    return jnp.asarray(x0), jnp.asarray(eps)


def test_independent_changes_nothing():
    x0, eps = _batch(6)
    np.testing.assert_array_equal(couplings.independent()(_keys(6), x0, eps), eps)


@pytest.mark.extended
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("block, blocks, shape", [(8, 3, (3,)), (2, 2, (2, 2, 1))])
def test_optimal_transport_permutes_within_blocks_at_the_least_cost(block, blocks, shape, seed):
    x0, eps = _batch(block * blocks, shape, seed)
    couple = couple_by_eight if block == 8 else couple_by_two
    paired = np.asarray(couple(_keys(block * blocks), x0, eps))
    assert paired.shape == eps.shape
    for start in range(0, block * blocks, block):
        mine, theirs, noise = (np.asarray(a)[start : start + block].reshape(block, -1) for a in (x0, paired, eps))
        order = [int(np.flatnonzero((noise == row).all(1)).item()) for row in theirs]
        assert sorted(order) == list(range(block))
        cost = np.square(mine[:, None].astype(np.float64) - noise[None]).sum(-1)
        rows, columns = scipy.optimize.linear_sum_assignment(cost)
        np.testing.assert_allclose(cost[np.arange(block), order].sum(), cost[rows, columns].sum(), rtol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize(
    "make",
    [
        lambda cost: couplings.optimal_transport(8, cost=cost),
        lambda cost: couplings.conditional_optimal_transport(1.0, 8, cost=cost),
        lambda cost: couplings.sinkhorn(0.02, 8, cost=cost),
    ],
)
def test_pairs_have_the_least_of_the_chosen_cost(make):
    """Far pairs in place of near ones: -|x - e|^2, whose best assignment the entropic plan reaches at a small reg."""
    x0, eps = _batch(8)
    far = lambda x, e: -jnp.sum((x[:, None] - e[None]) ** 2, -1)
    paired = jax.jit(make(far))(_keys(8), x0, eps)
    _, columns = scipy.optimize.linear_sum_assignment(-_squared_distances(x0, eps))
    np.testing.assert_array_equal(paired, np.asarray(eps)[columns])


def test_optimal_transport_undoes_a_shuffle():
    """Noise that is a permutation of the data itself finds its way back, within each block."""
    x0, _ = _batch(24)
    order = np.concatenate([8 * k + np.random.default_rng(k).permutation(8) for k in range(3)])
    np.testing.assert_array_equal(couple_by_eight(_keys(24), x0, x0[order]), x0)


def test_optimal_transport_of_a_block_does_not_depend_on_the_others():
    """So that devices and micro-batches, if they hold whole blocks, change nothing."""
    x0, eps = _batch(24)
    couple = couplings.optimal_transport(block=8)  # not compiled: also the same as the compiled one
    part = couple(_keys(24)[8:16], x0[8:16], eps[8:16])
    np.testing.assert_array_equal(couple_by_eight(_keys(24), x0, eps)[8:16], part)


def test_optimal_transport_is_exact_for_data_far_from_zero():
    """A constant added to the data must not drown the differences that decide the pairs."""
    x0, eps = _batch(24)
    far = couple_by_eight(_keys(24), x0 + 100.0, eps)
    np.testing.assert_array_equal(far, couple_by_eight(_keys(24), x0, eps))


def _squared_distances(x, e):
    x, e = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (x, e))
    return np.square(x[:, None] - e[None]).sum(-1)


@pytest.mark.parametrize("reg", [1.0, 5.0, 50.0])
@pytest.mark.parametrize("shape", [(3,), (2, 2, 1)])
def test_entropic_plan_satisfies_its_definition(reg, shape, x64):
    """The only matrix with these sums of the form exp(f_i + g_j - |x_i - e_j|^2 / reg) (Sinkhorn's theorem)."""
    x, e = (a.astype(np.float64) for a in _batch(5, shape))
    log_plan = np.asarray(entropic_plan(x, e, reg, tolerance=1e-12, iterations=10000))
    np.testing.assert_allclose(np.exp(log_plan).sum(0), 1 / 5, rtol=1e-10)
    np.testing.assert_allclose(np.exp(log_plan).sum(1), 1 / 5, rtol=1e-10)
    potentials = log_plan + _squared_distances(x, e) / reg
    centred = potentials - potentials.mean(0) - potentials.mean(1, keepdims=True) + potentials.mean()
    np.testing.assert_allclose(centred, 0, atol=1e-10)


def test_entropic_plan_is_the_minimum_of_its_objective(x64):
    """On 2 x 2 the plans are a segment: the least of cost + reg KL on it, by a scalar minimiser."""
    x, e = (a.astype(np.float64) for a in _batch(2))
    cost = _squared_distances(x, e)
    reg = 0.7
    table = lambda p: np.array([[p, 0.5 - p], [0.5 - p, p]])
    objective = lambda p: (table(p) * (cost + reg * np.log(table(p) * 4))).sum()
    best = scipy.optimize.minimize_scalar(objective, bounds=(1e-9, 0.5 - 1e-9), options={"xatol": 1e-12}).x
    log_plan = entropic_plan(x, e, reg, tolerance=1e-12, iterations=10000)
    np.testing.assert_allclose(np.exp(log_plan), table(best), rtol=1e-6)


def test_entropic_plan_tends_to_the_exact_one_and_to_independence(x64):
    """As reg falls the cost falls to that of the linear program, the plan to its vertex; as it grows, to 1 / n^2."""
    x, e = (a.astype(np.float64) for a in _batch(6))
    cost = _squared_distances(x, e)
    sums = np.concatenate([np.kron(np.eye(6), np.ones(6)), np.kron(np.ones(6), np.eye(6))])
    program = scipy.optimize.linprog(cost.ravel(), A_eq=sums, b_eq=np.full(12, 1 / 6), bounds=(0, None))
    plans = [np.exp(entropic_plan(x, e, reg, tolerance=1e-6, iterations=100000)) for reg in (1.0, 0.1, 0.01)]
    costs = [(plan * cost).sum() for plan in plans]
    assert costs[0] > costs[1] > costs[2] - 1e-9 >= program.fun - 1e-5
    np.testing.assert_allclose(plans[2], program.x.reshape(6, 6), atol=1e-5)
    np.testing.assert_allclose(np.exp(entropic_plan(x, e, 1e6)), 1 / 36, rtol=1e-4)


def test_entropic_plan_in_float32_does_not_mind_where_the_data_lies():
    x, e = _batch(8)
    here = entropic_plan(x, e, 0.5)
    far = entropic_plan(x + 100.0, e - 30.0, 0.5)
    assert np.isfinite(here).all()
    np.testing.assert_allclose(np.exp(far), np.exp(here), atol=1e-3)
    np.testing.assert_allclose(np.exp(here).sum(0), 1 / 8, rtol=2e-3)


def test_sinkhorn_draws_from_its_plan():
    """Each example's noise is e_j with probability n pi_ij, independently of the others."""
    x0, eps = _batch(8)
    couple = jax.jit(jax.vmap(sinkhorn_by_eight, (0, None, None)))
    drawn = np.asarray(couple(jax.random.split(jax.random.key(1), (4000, 8)), x0, eps))
    choice = (drawn[:, :, None] == np.asarray(eps)).all(-1)  # [draws, i, j]
    assert (choice.sum(-1) == 1).all()
    plan = 8 * np.exp(np.asarray(entropic_plan(x0, eps, 1.0), np.float64))
    for i in range(8):
        likely = plan[i] * 4000 > 5
        observed = choice[:, i, likely].sum(0)
        expected = plan[i, likely] * 4000
        assert scipy.stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4
    both = (choice[:, 0, :, None] & choice[:, 1, None, :]).mean(0)
    np.testing.assert_allclose(both, np.outer(plan[0], plan[1]), atol=4 * (0.25 / 4000) ** 0.5)


def test_sinkhorn_keeps_the_marginal_of_the_noise():
    """Over the draws every noise of a block is used equally often: the columns of the plan sum to 1 / n."""
    x0, eps = _batch(8, seed=3)
    couple = jax.jit(jax.vmap(sinkhorn_by_eight, (0, None, None)))
    drawn = np.asarray(couple(jax.random.split(jax.random.key(2), (4000, 8)), x0, eps))
    share = (drawn[:, :, None] == np.asarray(eps)).all(-1).mean((0, 1))
    np.testing.assert_allclose(share, 1 / 8, atol=5 * (1 / 8 / 4000) ** 0.5 / 8**0.5)


def test_sinkhorn_of_a_block_depends_on_its_own_keys_alone():
    x0, eps = _batch(24)
    whole = sinkhorn_by_eight(_keys(24), x0, eps)
    np.testing.assert_array_equal(whole[8:16], sinkhorn_by_eight(_keys(24)[8:16], x0[8:16], eps[8:16]))
    other = sinkhorn_by_eight(_keys(24).at[0].set(jax.random.key(5)), x0, eps)
    np.testing.assert_array_equal(other[1:], whole[1:])


def test_schroedinger_bridge_is_sinkhorn_with_twice_the_variance():
    """exp(-|x - e|^2 / (2 sigma^2)) is the density of the reference's end given its start (Tong et al., eq. 18)."""
    x0, eps = _batch(8)
    couple = jax.jit(couplings.schroedinger_bridge(0.5**0.5, block=8))
    np.testing.assert_array_equal(couple(_keys(8), x0, eps), sinkhorn_by_eight(_keys(8), x0, eps))


BLOCKED = {
    "optimal_transport": couplings.optimal_transport,
    "sinkhorn": lambda block: couplings.sinkhorn(0.1, block),
    "schroedinger_bridge": lambda block: couplings.schroedinger_bridge(0.1, block),
}


@pytest.mark.parametrize("name", list(BLOCKED))
@pytest.mark.parametrize("block", [0, 1, -3])
def test_a_block_needs_two_examples(name, block):
    with pytest.raises(ValueError, match="block"):
        BLOCKED[name](block)


@pytest.mark.parametrize("name", list(BLOCKED))
def test_a_batch_that_is_not_whole_blocks_is_refused(name):
    with pytest.raises(ValueError, match=r"10.*4"):
        BLOCKED[name](4)(_keys(10), *_batch(10))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_bad_regularisations_are_refused(value):
    with pytest.raises(ValueError, match="reg"):
        couplings.sinkhorn(value)
    with pytest.raises(ValueError, match="sigma"):
        couplings.schroedinger_bridge(value)


@pytest.mark.extended
def test_sinkhorn_that_does_not_converge_is_refused_and_its_error_measured():
    """Two iterations at a small reg: outside of jit an error, which names how far it is; inside it can be measured."""
    x, e = jax.random.normal(jax.random.key(0), (2, 16, 2))
    keys = jax.random.split(jax.random.key(1), 16)
    plan = jax.jit(lambda x, e: couplings.entropic_plan(x, e, 0.05, iterations=2))(x, e)
    columns = np.exp(np.asarray(plan, np.float64)).sum(0)
    error = np.abs(16 * columns - 1).max()
    assert error > 0.01
    measured = couplings.marginal_error(plan)
    np.testing.assert_allclose(measured, error, rtol=1e-4)
    unfinished = couplings.sinkhorn(0.05, block=16, iterations=2)
    with pytest.raises(
        ValueError, match=f"after 2 iterations .* differs from its sum by {error:.2g}.*use more iterations"
    ):
        unfinished(keys, x, e)
    assert jax.jit(unfinished)(keys, x, e).shape == e.shape
    assert couplings.sinkhorn(1.0, block=16)(keys, x, e).shape == e.shape


@pytest.mark.extended
def test_a_cost_is_of_data_and_noise_in_this_order():
    """|2 x - e|^2, which is another cost of the two exchanged: by brute force, and by its plan at a small reg."""
    rng = np.random.default_rng(3)
    x, e = (jnp.asarray(rng.normal(size=(5, 2)), jnp.float32) for _ in range(2))
    cost = lambda x, e: jnp.sum((2 * x[:, None] - e[None]) ** 2, -1)
    costs = np.sum((2 * np.asarray(x)[:, None] - np.asarray(e)[None]) ** 2, -1)
    expected = scipy.optimize.linear_sum_assignment(costs)[1]
    keys = jax.random.split(jax.random.key(0), 5)
    found = couplings.optimal_transport(5, cost)(keys, x, e)
    np.testing.assert_array_equal(found, np.asarray(e)[expected])
    plan = couplings.entropic_plan(x, e, 1.0, 1e-5, cost=cost)
    differences = np.asarray(plan) + costs  # f_i + g_j: no interaction is left
    np.testing.assert_allclose(differences, differences[:1] + differences[:, :1] - differences[0, 0], atol=1e-3)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_a_plan_has_as_many_sweeps_as_it_may(iterations):
    """Columns and rows are scaled in turn, rows first: a loop of NumPy on the matrix itself."""
    rng = np.random.default_rng(1)
    x, e = rng.normal(size=(2, 4, 3))
    plan = np.exp(-np.sum((x[:, None] - e[None]) ** 2, -1) / 2)
    plan /= 4 * plan.sum(1, keepdims=True)
    for _ in range(iterations):
        plan /= 4 * plan.sum(0)
        plan /= 4 * plan.sum(1, keepdims=True)
    cost = lambda x, e: jnp.sum((x[:, None] - e[None]) ** 2, -1)
    found = couplings.entropic_plan(jnp.float32(x), jnp.float32(e), 2.0, 0.0, iterations, cost)
    np.testing.assert_allclose(np.exp(found), plan, rtol=1e-4)
    assert float(couplings.marginal_error(found)) == pytest.approx(np.abs(4 * plan.sum(0) - 1).max(), abs=1e-5)


@pytest.mark.extended
def test_the_worst_block_decides_whether_a_plan_has_converged():
    """Of two blocks, one whose plan is found at once and one whose is not, in both orders."""
    easy = (jnp.zeros((4, 1)), jnp.zeros((4, 1)))
    hard = (jnp.array([[0.0], [1.0], [5.0], [6.0]]), jnp.array([[0.2], [5.5], [5.7], [9.0]]))
    keys = jax.random.split(jax.random.key(0), 8)
    coupling = couplings.sinkhorn(0.1, 4, iterations=1)
    paired = lambda *blocks: coupling(keys, *map(jnp.concatenate, zip(*blocks)))
    paired(easy, easy)
    for blocks in ((easy, hard), (hard, easy)):
        with pytest.raises(ValueError, match="after 1 iterations"):
            paired(*blocks)


def test_one_leaf_of_floating_point_numbers_makes_a_condition_continuous():
    with pytest.raises(ValueError, match="no two are equal"):
        couplings.same_condition({"class": jnp.arange(3), "angle": jnp.ones(3)})
