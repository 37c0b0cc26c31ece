"""Straightness and costs of paths by hand, and the claims from values by hand."""

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


@pytest.mark.slow
def test_a_quick_run_measures_each_claim():
    values = toy.measure(toy.PART, True)
    assert {published.figure for published in toy.REMAKE.published} <= set(values)
    assert values[toy.NAMES[0]].shape == (5, 64, 2)
