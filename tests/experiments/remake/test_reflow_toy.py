"""Straightness and costs of paths by hand, and the claims from values by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.experiments.remake import reflow_toy as toy


def test_the_straightness_of_a_bent_path_by_hand():
    """Right by 1 and then up by 1: |(1, 1) - (2, 0)|^2 = |(1, 1) - (0, 2)|^2 = 2; a straight path has 0."""
    bent = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    straight = jnp.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    assert toy.straightness(bent[:, None]) == 2
    assert toy.straightness(straight[:, None]) == 0
    assert toy.straightness(jnp.stack([bent, straight], 1)) == 1


def test_costs_by_hand():
    noise, data = jnp.zeros((2, 2)), jnp.array([[3.0, 4.0], [0.0, 1.0]])
    assert [float(toy.cost(noise, data, power)) for power in (1, 2, 4)] == pytest.approx([3, 13, 313])


def test_what_falls_falls_by_two_standard_errors():
    before = np.array([1.0, 2.0, 3.0])
    assert toy.falls(before - [0.5, 0.6, 0.7], before)
    assert not toy.falls(before, before) and not toy.falls(before + 1, before)
    assert not toy.falls(before - [3.0, 0.0, -2.0], before)  # by a third, give or take one and a half


def test_the_claims_of_values_by_hand():
    noise = np.array([0.0, 1e-3, -1e-3])
    costs = {"independent pairs": 3.0, toy.NAMES[0]: 2.0, toy.NAMES[1]: 2.5, toy.NAMES[2]: 2.5}
    values = {f"{name}: cost": np.stack([noise + c] * 3, 1) for name, c in costs.items()}
    for quantity in ("S", "Euler"):
        values |= {f"{name}: {quantity}": noise + s for name, s in zip(toy.NAMES, (2.0, 1.0, 1.5))}
    failed = {name for name, holds in toy.claims(values | {f"{toy.NAMES[1]}: S": noise[::-1] + 1}).items() if not holds}
    assert failed == {
        *(toy.COST.format(toy.NAMES[1], power) for power in toy.POWERS),
        toy.STRAIGHTER.format(toy.NAMES[2], toy.NAMES[1]),
        toy.EULER.format(toy.NAMES[2], toy.NAMES[1]),
    }


@pytest.mark.extended
def test_an_iteration_trains_on_the_ends_of_the_last_and_its_values_are_those_of_its_paths(monkeypatch):
    """Straight paths along (3, 4) k, in iteration k, whose Euler steps end k too far to the right."""
    batches = []

    def rectified(key, batch, steps, number, solver_steps):
        assert (steps, number, solver_steps) == (7, 130, 2)
        batches.append(jax.tree.map(np.asarray, batch(key)))
        k = len(batches)
        start = jnp.arange(2.0 * number).reshape(number, 2)
        path = start + k * jnp.array([3.0, 4.0]) * jnp.array([0.0, 0.5, 1.0])[:, None, None]
        return toy.Flow(path, path[-1] + jnp.array([k, 0.0]))

    pairs = lambda key, batch: {"x": jnp.full((batch, 2), 6.0), "noise": jnp.stack([jnp.arange(batch)] * 2, 1) * 0.0}
    monkeypatch.setattr(toy, "rectified", rectified)
    monkeypatch.setattr(toy, "independent_batch", pairs)
    values = toy.run(jax.random.key(0), 7, 16, 130, 2)
    root = 72**0.5
    np.testing.assert_allclose(values["independent pairs: cost"], [root, root**2, root**4], rtol=1e-5)
    assert batches[0]["x"].shape == (16, 2) and (batches[0]["x"] == 6).all()
    for k, name in enumerate(toy.NAMES, 1):
        np.testing.assert_allclose(values[f"{name}: cost"], [5.0 * k, 25.0 * k**2, 625.0 * k**4], rtol=1e-4)
        assert values[f"{name}: S"] == pytest.approx(0, abs=1e-6) and values[f"{name}: Euler"] == pytest.approx(k)
        assert values[f"{name}: path"].shape == (3, 128, 2)
        if k > 1:
            np.testing.assert_allclose(batches[k - 1]["x"] - batches[k - 1]["noise"], [[3 * k - 3, 4 * k - 4]] * 16)
            assert len({*batches[k - 1]["noise"][:, 0].tolist()}) > 8  # of all 130


@pytest.mark.extended
def test_a_flow_that_is_trained_to_stand_still_stays_at_its_noise(monkeypatch):
    seen = []

    def train(objective, schedule, apply, params, optimizer, batch, steps, key):
        seen.append((batch, steps))
        return jax.tree.map(jnp.zeros_like, params)

    monkeypatch.setattr(toy, "train", train)
    flow = toy.rectified(jax.random.key(0), "a batch", 9, 2000, 2)
    assert seen == [("a batch", 9)] and flow.path.shape == (3, 2000, 2)
    np.testing.assert_array_equal(flow.path, np.stack([flow.euler] * 3))
    np.testing.assert_allclose(np.linalg.norm(flow.euler, axis=-1).mean(), 5, atol=0.2)  # the eight Gaussians


def test_a_part_has_the_means_over_its_seeds_and_the_paths_of_the_first(monkeypatch):
    def run(key, steps, batch, number, solver_steps):
        assert (steps, batch, number, solver_steps) == (toy.STEPS, toy.BATCH, toy.PAIRS, 50)
        u = jax.random.uniform(key)
        values = {f"{name}: S": u for name in toy.NAMES} | {f"{name}: Euler": 2 * u for name in toy.NAMES}
        values |= {f"{name}: path": jnp.full((2, 1, 2), u) for name in toy.NAMES}
        costs = ("independent pairs", *toy.NAMES)
        return values | {f"{name}: cost": u + 10.0 * jnp.array(toy.POWERS) for name in costs}

    monkeypatch.setattr(toy, "run", run)
    values = toy.measure(toy.PART, False)
    mean, first = values[f"{toy.NAMES[0]}: S"], values[toy.NAMES[0]]
    assert first.shape == (2, 1, 2) and first[0, 0, 0] != pytest.approx(mean)
    for name in toy.NAMES:
        assert values[f"{name}: Euler"] == pytest.approx(2 * mean)
        for power in toy.POWERS:
            assert values[f"{name}: E|Z_1 - Z_0|^{power}"] == pytest.approx(mean + 10 * power)
            assert values[toy.COST.format(name, power)] == 1  # equal costs are not above each other


def test_the_picture_has_the_paths_from_their_noise_to_their_data():
    paths = {name: np.random.default_rng(k).uniform(-6, 6, (3, 5, 2)) for k, name in enumerate(toy.NAMES)}
    facts = {f"{name}: S": 0.125 for name in toy.NAMES} | {f"{name}: Euler": 0.5 for name in toy.NAMES}
    for axes, (name, path) in zip(toy.draw({toy.PART: paths | facts}).axes, paths.items(), strict=True):
        np.testing.assert_array_equal([line.get_xydata() for line in axes.lines], path.transpose(1, 0, 2))
        start, end = (np.asarray(dots.get_offsets()) for dots in axes.collections)
        assert not len(axes.get_xticks()) and not len(axes.get_yticks())
        np.testing.assert_array_equal(start, path[0])
        np.testing.assert_array_equal(end, path[-1])
        assert axes.get_title() == f"{name}\nS 0.125, one step off by 0.5"
        assert axes.get_xlim() == axes.get_ylim() == (-7, 7)  # all eight Gaussians, at a distance of 5


@pytest.mark.slow
def test_a_quick_run_measures_each_claim():
    values = toy.measure(toy.PART, True)
    assert {published.figure for published in toy.REMAKE.published} <= set(values)
    assert values[toy.NAMES[0]].shape == (5, 64, 2)
