"""The points, the couplings and the network of the flows between eight Gaussians and two moons."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from diffusion import couplings
from diffusion.experiments.remake import c2ot_moons as moons
from diffusion.experiments.remake.c2ot_moons import CLASSES, COORDINATE, UNCONDITIONAL


def test_the_gaussians_lie_around_eight_centres():
    points = np.asarray(moons.eight_gaussians(jax.random.key(0), 40_000))
    nearest = np.round(np.arctan2(points[:, 1], points[:, 0]) / (math.pi / 4)) * (math.pi / 4)
    away = points - 5 * np.stack([np.cos(nearest), np.sin(nearest)], -1)
    np.testing.assert_allclose(away.std(0), 0.1**0.25, rtol=0.02)  # the covariance is sqrt(0.1), not 0.1
    assert len(np.unique(np.round(nearest % (2 * math.pi), 3))) == 8


@pytest.mark.extended
def test_the_moons_are_half_circles_moved_along_the_diagonal():
    points, classes = moons.moons(jax.random.key(0), 1001)
    points, classes = (np.asarray(points) + 1) / 3, np.asarray(classes)
    assert classes.sum() == 501 and np.all(np.diff(classes) >= 0)
    angle = np.concatenate([np.linspace(0, math.pi, 500), np.linspace(0, math.pi, 501)])
    centre = np.stack([np.where(classes, 1 - np.cos(angle), np.cos(angle))], -1)[:, 0]
    moved = points[:, 0] - centre
    height = np.where(classes, 0.5 - np.sin(angle), np.sin(angle))
    np.testing.assert_allclose(points[:, 1] - height, moved, atol=1e-5)
    assert 0 <= moved.min() + 1e-6 and moved.max() < 0.2 + 1e-6 and abs(moved.mean() - 0.1) < 0.01


@pytest.mark.extended
def test_the_network_is_a_sum_of_projections_and_three_blocks():
    """1,026 weights and biases around three blocks of 128 x 512; those begin uniform, up to 1 / sqrt(inputs)."""
    params = moons.Residual().init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros(1))["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == (3 + 2 + 2) * 128 + 3 * (128 * 512 + 512 + 512 * 128 + 128) + 129 * 2
    wide = [layer for layer in params.values() if layer["kernel"].shape == (512, 128)]
    assert len(wide) == 3
    for leaf in (wide[0]["kernel"], wide[0]["bias"]):
        assert 0.95 / math.sqrt(512) < np.abs(leaf).max() <= 1 / math.sqrt(512)


def _pairs(rows):
    return np.asarray(rows["x"]), np.asarray(rows["noise"])


@pytest.mark.extended
@pytest.mark.parametrize("kind", [UNCONDITIONAL, CLASSES, COORDINATE])
def test_transport_that_ignores_conditions_is_scipys(kind):
    x, noise = _pairs(moons.draw_block(jax.random.key(1), "OT", kind, 32))
    costs = ((x[:, None] - noise[None]) ** 2).sum(-1)
    assert np.trace(costs) == pytest.approx(costs[scipy.optimize.linear_sum_assignment(costs)].sum(), rel=1e-5)


def test_transport_of_classes_leaves_each_class_its_own_noise():
    drawn = moons.draw_block(jax.random.key(1), "FM", CLASSES, 32)
    coupled = moons.draw_block(jax.random.key(1), "C2OT", CLASSES, 32)
    order = lambda a: a[np.lexsort(a.T)]
    for label in (-1.0, 1.0):
        x, noise = (np.asarray(coupled[name])[np.asarray(coupled["condition"]) == label] for name in ("x", "noise"))
        first = np.asarray(drawn["noise"])[np.asarray(drawn["condition"]) == label]
        np.testing.assert_array_equal(order(noise), order(first))
        costs = ((x[:, None] - noise[None]) ** 2).sum(-1)
        assert np.trace(costs) == pytest.approx(costs[scipy.optimize.linear_sum_assignment(costs)].sum(), rel=1e-5)


@pytest.mark.extended
def test_transport_of_coordinates_stays_nearer_to_the_pairs_as_drawn():
    """Noises come from pairs whose coordinate is nearer than those of transport that ignores it."""
    drawn = moons.draw_block(jax.random.key(1), "FM", COORDINATE, 64)
    came_from = {tuple(e): float(c) for e, c in zip(np.asarray(drawn["noise"]), np.asarray(drawn["condition"]))}

    def moved(method):
        rows = moons.draw_block(jax.random.key(1), method, COORDINATE, 64)
        return np.mean([abs(came_from[tuple(e)] - c) for e, c in zip(np.asarray(rows["noise"]), rows["condition"])])

    assert 0 < moved("C2OT") < 0.5 * moved("OT")


@pytest.mark.extended
@pytest.mark.parametrize(
    ("method", "kind"), [("OT", UNCONDITIONAL), ("OT", CLASSES), ("C2OT", CLASSES), ("C2OT", COORDINATE)]
)
def test_pairs_are_those_of_the_librarys_couplings(method, kind):
    """The assignment is SciPy's; `couplings` has its own."""
    drawn = moons.draw_block(jax.random.key(4), "FM", kind, 64)
    x, noise, condition = drawn["x"], drawn["noise"], drawn["condition"]
    classes = None if condition is None or kind == COORDINATE else (condition > 0).astype(jnp.int32)
    transport = couplings.optimal_transport(64)
    couple = {
        ("OT", UNCONDITIONAL): transport,
        ("OT", CLASSES): couplings.across_conditions(transport),
        ("C2OT", CLASSES): transport,
        ("C2OT", COORDINATE): couplings.conditional_optimal_transport(moons.RATIO, 64),
    }[method, kind]
    expected = couple(jax.random.split(jax.random.key(0), 64), x, noise, condition if kind == COORDINATE else classes)
    pairs = lambda x, noise: {(*a, *b) for a, b in zip(np.asarray(x).tolist(), np.asarray(noise).tolist())}
    assert pairs(*_pairs(moons.draw_block(jax.random.key(4), method, kind, 64))) == pairs(x, expected)


def test_the_weight_of_coordinates_is_that_of_the_librarys_coupling():
    rows = moons.draw_pairs(jax.random.key(5), COORDINATE, 64)
    x, noise, condition = rows["x"], rows["noise"], rows["condition"]
    apart = couplings.squared(condition[:, None], condition[:, None])
    expected = couplings.condition_weight(couplings.squared(x, noise), apart, moons.RATIO)
    assert moons.condition_weight(x, noise, condition) == pytest.approx(float(expected), rel=1e-4)
    one = np.zeros(64, np.float32)  # equal conditions cost nothing at any weight
    assert moons.condition_weight(x, noise, one) == couplings.condition_weight(
        couplings.squared(x, noise), jnp.zeros((64, 64)), moons.RATIO
    )


@pytest.mark.extended
def test_transport_that_ignores_conditions_is_solved_once(monkeypatch):
    """A run's points and pairs are the same for all conditions."""
    blocks = [moons.draw_block(jax.random.key(6), "OT", kind, 32) for kind in (UNCONDITIONAL, CLASSES)]
    monkeypatch.setattr(moons, "matched", lambda *unused: pytest.fail("solved again"))
    blocks.append(moons.draw_block(jax.random.key(6), "OT", COORDINATE, 32))
    for block in blocks[1:]:
        np.testing.assert_array_equal(block["x"], blocks[0]["x"])
        np.testing.assert_array_equal(block["noise"], blocks[0]["noise"])


def test_the_condition_follows_its_data_and_classes_are_signs():
    for method in ("FM", "OT", "C2OT"):
        rows = moons.draw_block(jax.random.key(2), method, COORDINATE, 32)
        np.testing.assert_array_equal(rows["condition"], rows["x"][:, 0])
        assert set(np.asarray(moons.draw_block(jax.random.key(2), method, CLASSES, 32)["condition"])) == {-1.0, 1.0}
    assert moons.draw_block(jax.random.key(2), "OT", UNCONDITIONAL, 32)["condition"] is None


def test_the_figures_are_those_of_the_eight_trainings():
    figures = {published.figure for published in moons.REMAKE.published}
    assert len(figures) == 16 and len(moons.REMAKE.parts) == 80
    euler = next(p for p in moons.REMAKE.published if p.figure == "FM, unconditional, one Euler step: W2 squared")
    assert euler.value == 6.232 and euler.half_width == pytest.approx(0.0588, abs=1e-4)


def test_a_run_has_the_distances_of_both_samplers(monkeypatch):
    """Clouds of one point each: (3, 4) is at 25 from the data, and (0, 1) at 1."""
    trained = []

    def train(key, method, kind, steps, batch, block):
        trained.append((jax.random.key_data(key).tolist(), method, kind, steps, batch, block))
        return jnp.zeros(())

    def samples(params, kind, key, number):
        assert (kind, number) == (CLASSES, 40)
        points = lambda x, y: jnp.tile(jnp.array([[x, y]]), (number, 1)) + params
        return {"data": points(0.0, 0.0), moons.EULER: points(3.0, 4.0), moons.ADAPTIVE: points(0.0, 1.0)}

    monkeypatch.setattr(moons, "POINTS", 40)
    monkeypatch.setattr(moons, "train", train)
    monkeypatch.setattr(moons, "samples", samples)
    for run in (0, 3):
        values = moons.measure(f"OT, {CLASSES}, run {run}", False)
        assert values == {f"OT, {CLASSES}, one Euler step: W2 squared": pytest.approx(25),
                          f"OT, {CLASSES}, adaptive steps: W2 squared": pytest.approx(1)}  # fmt: skip
    assert [call[1:] for call in trained] == [("OT", CLASSES, 20_000, 256, 1024)] * 2 and trained[0] != trained[1]


@pytest.mark.extended
@pytest.mark.parametrize("kind", [UNCONDITIONAL, CLASSES, COORDINATE])
def test_a_velocity_of_zero_leaves_both_samplers_at_the_gaussians(monkeypatch, kind):
    conditions = []

    def apply(self, params, x, clock, condition):
        conditions.append(condition)
        return jnp.zeros_like(x)

    monkeypatch.setattr(moons.Residual, "apply", apply)
    drawn = moons.samples({}, kind, jax.random.key(0), 400)
    np.testing.assert_allclose(drawn[moons.EULER], drawn[moons.ADAPTIVE], rtol=1e-4)
    assert np.linalg.norm(drawn[moons.EULER], axis=1).mean() == pytest.approx(5, abs=0.3)
    x, classes = np.asarray(drawn["data"]), np.arange(400) >= 200
    assert x[classes, 1].mean() < x[~classes, 1].mean() - 1
    wanted = {UNCONDITIONAL: None, CLASSES: 2.0 * classes - 1, COORDINATE: x[:, 0]}[kind]
    for condition in conditions:
        assert condition is wanted is None or (np.asarray(condition) == wanted).all()


def test_batches_of_blocks_are_steps_in_their_order(monkeypatch):
    """A constant velocity v, of loss |v - (eps - x)|^2 a coordinate: v falls by 2 RATE (v - (eps - x)) each step."""
    seen = []

    def apply(self, params, x, clock, condition):
        seen.append((x.shape, clock.shape, condition.shape))
        return jnp.broadcast_to(params, x.shape)

    monkeypatch.setattr(moons.Residual, "apply", apply)
    monkeypatch.setattr(moons.optax, "adam", moons.optax.sgd)
    shift = np.arange(4.0).reshape(2, 2, 1, 1)  # of two batches in each of two blocks
    noise = np.broadcast_to(100 * (1 + shift), (2, 2, 4, 2)).reshape(2, 8, 2).astype(np.float32)
    blocks = {"x": np.full_like(noise, 20), "noise": noise, "condition": np.zeros((2, 8), np.float32)}
    carry = (jnp.float32(5), moons.optax.sgd(0.1).init(jnp.float32(5)), jnp.int32(7))
    params, _, step = moons.compiled_updates.__wrapped__(4)(carry, blocks, jax.random.key(0))
    v = 5.0
    for k in range(4):
        v -= 2 * moons.RATE * (v - (100 * (1 + k) - 20))
    assert float(params) == pytest.approx(v, rel=1e-5) and step == 11
    assert set(seen) == {((4, 2), (4,), (4,))}


def test_every_block_of_a_run_has_its_key_and_is_trained_in_order(monkeypatch):
    keys, runs = [], []

    def draw_block(key, method, kind, block):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return {"x": np.full((block, 2), len(keys)), "condition": None}

    def run(carry, blocks, draw_key):
        runs.append(blocks["x"][:, 0, 0].tolist())
        return (carry[0] + 1, *carry[1:])

    monkeypatch.setattr(moons, "draw_block", draw_block)
    monkeypatch.setattr(moons, "compiled_updates", lambda batch: run)
    monkeypatch.setattr(moons.Residual, "init", lambda self, key, x, clock, condition: jnp.zeros(()))
    params = moons.train(jax.random.key(0), "OT", UNCONDITIONAL, 16 * 60 // 8, 8, 16)
    assert params == 3 and len({*keys}) == 60
    assert runs == [list(range(1, 26)), list(range(26, 51)), list(range(51, 61))]


@pytest.mark.slow
@pytest.mark.parametrize("part", [f"FM, {UNCONDITIONAL}", f"OT, {CLASSES}", f"C2OT, {COORDINATE}"])
def test_a_quick_run_measures_both_samplers(part):
    values = moons.measure(f"{part}, run 0", True)
    assert set(values) == {moons.FIGURE.format(part, steps) for steps in (moons.EULER, moons.ADAPTIVE)}
    assert all(0 < value < 100 for value in values.values())
